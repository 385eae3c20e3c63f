"""Compute the metrics of one node, as data."""
