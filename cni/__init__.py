"""The chained CNI plugin: what the container runtime starts for each pod."""
