"""``egress-gateway-cni``: puts the plugin on the node and into its CNI configuration."""
