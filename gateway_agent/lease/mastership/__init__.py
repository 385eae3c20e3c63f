"""Egress IPs of a node: requested, owned, handed over, or followed."""
