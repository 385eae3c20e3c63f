"""Nftables tables: by the program ``nft`` as text, and by netlink for what must be quick."""
