"""Serve others: the agent's unix socket, and metrics and the page by HTTP."""
