"""Answer requests on the agent's socket: CNI calls, and calls of egressctl."""
