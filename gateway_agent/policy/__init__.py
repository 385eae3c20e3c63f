"""Compute the plan of one node from objects, kernel facts and masters. Pure."""
