"""A plan as kernel objects and nftables rules; ``reconcile`` brings the kernel to them."""
