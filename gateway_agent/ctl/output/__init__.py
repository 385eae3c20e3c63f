"""Render the answers of egressctl as text."""
