"""Show the state of one node: status, explain, metrics, the page. Pure."""
