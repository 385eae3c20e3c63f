"""Render the page for browsers: sections of HTML, pure."""
