"""Connect the agent to the outside world, with one module for each part of it. No decisions."""
