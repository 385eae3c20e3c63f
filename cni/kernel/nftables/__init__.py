"""Nftables tables: as text by the program ``nft``, and by netlink for operations that must be quick."""
