"""Answer requests on the agent's socket: CNI calls, and what operators ask."""
