"""Find which policies select which pods, and the pods that need the owner's attention. Pure."""
