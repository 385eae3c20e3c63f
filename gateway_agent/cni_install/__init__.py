"""Implement ``egress-gateway-cni``: install the plugin on the node and add it to the CNI configuration."""
