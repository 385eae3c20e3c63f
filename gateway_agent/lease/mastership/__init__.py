"""Egress IPs of a node: asked for, owned, handed over, or followed."""
