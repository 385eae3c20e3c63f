"""The gateway agent of one node, its lease daemon and its tools."""
