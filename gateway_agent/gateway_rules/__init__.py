"""The nftables rules of an egress node: source NAT, fence, TCP pick-up. Pure."""
