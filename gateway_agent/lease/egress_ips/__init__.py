"""The record of one egress IP on a node: its phase and transition table, its master, and what is left to do."""
