"""The process of the lease daemon: sockets, the fence, addresses, files. It makes no decisions."""
