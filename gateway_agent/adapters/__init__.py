"""One module for each thing of the outside world that the agent touches. No decisions."""
