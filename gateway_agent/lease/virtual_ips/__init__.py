"""What a node does for the virtual IPs whose lease it has."""
