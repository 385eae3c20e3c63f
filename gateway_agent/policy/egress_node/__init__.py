"""Decide what one egress node can serve, by which path, and with which partners. Pure."""
