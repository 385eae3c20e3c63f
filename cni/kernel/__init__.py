"""What both programs know of the kernel: names and numbers, state, differences, netlink, nftables."""
