"""Read and write files of the operator: manifests and keys."""
