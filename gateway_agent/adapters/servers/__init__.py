"""Serve clients: the agent's unix socket, metrics and the page by HTTP, and the agents of other nodes."""
