"""Leases that a majority of voters grants, and the set of voters."""
