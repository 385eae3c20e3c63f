"""Follow what the agent reacts to: the objects of the store, and the lease daemon."""
