"""The record of one egress IP on a node: its phase, the transition table, its master, and pending work."""
