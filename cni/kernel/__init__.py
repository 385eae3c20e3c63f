"""The kernel, for both programs: names and numbers, state, differences, netlink, nftables."""
