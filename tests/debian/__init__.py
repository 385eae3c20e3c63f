"""Installation on bare systems, whose files are made here: each needs a mirror, so CI runs none of them."""
