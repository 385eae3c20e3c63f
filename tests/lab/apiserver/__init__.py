"""A Kubernetes API server for tests: as the real one where an agent could notice a difference."""
