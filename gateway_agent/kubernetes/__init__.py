"""Use the Kubernetes API: client, watches, the Kubernetes store, status and Events."""
