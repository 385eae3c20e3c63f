"""The lease daemon's process: sockets, the fence, addresses, files. No decisions."""
