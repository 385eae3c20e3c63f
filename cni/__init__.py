"""The chained CNI plugin, which the container runtime starts for each pod."""
