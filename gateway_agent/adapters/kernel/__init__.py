"""Access the kernel of the node: data path, interfaces, routes, settings. One worker thread for blocking calls."""
