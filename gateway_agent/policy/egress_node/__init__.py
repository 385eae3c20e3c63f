"""Decide which egress IPs one egress node can serve, by which path, and with which partners. Pure."""
