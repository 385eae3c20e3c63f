"""Carry out what the lease daemon decides, in the kernel: fence, virtual addresses, tunnel neighbours."""
