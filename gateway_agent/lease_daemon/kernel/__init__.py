"""Carry out the lease daemon's effects in the kernel: fence, virtual addresses, neighbour entries of tunnels."""
