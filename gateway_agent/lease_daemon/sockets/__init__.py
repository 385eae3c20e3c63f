"""Send and receive for the lease daemon: heartbeats by UDP, ARP and neighbour discovery, stray packets."""
