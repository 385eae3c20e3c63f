"""The Kubernetes API: client, watch, the store that it makes, status and Events."""
