"""Effects and checks for the virtual IPs whose lease a node has."""
