"""The egress IPs of a node: requesting, owning and handing over leases, and following other masters."""
