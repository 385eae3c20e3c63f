"""Connections of the kernel by ctnetlink: list, change, delete, follow (nf_conntrack_netlink)."""
