"""``egressctl``: the operator's tool."""
