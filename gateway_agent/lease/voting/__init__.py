"""Leases by a majority of voters, and the set of voters."""
