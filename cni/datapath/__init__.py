"""A plan as kernel objects and nftables rules; ``reconcile`` applies them."""
