"""Netlink messages made by hand, for what runs at each pod start, failover or heartbeat."""
