"""Effects and checks for the virtual IPs that a node has the lease of."""
