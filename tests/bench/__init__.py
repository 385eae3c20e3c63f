"""Measurements. Nothing here is a test; tests use some of it in a short form."""
