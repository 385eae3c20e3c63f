"""Connect the agent to the outside world: one module for each thing that it touches. No decisions."""
