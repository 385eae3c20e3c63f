"""Find which policies select which pods, and the pods that need an operator's attention. Pure."""
