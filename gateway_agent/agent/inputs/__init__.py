"""Follow the inputs of the agent: the objects of the store, the lease daemon, other nodes."""
