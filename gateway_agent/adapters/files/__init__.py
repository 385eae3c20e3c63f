"""Read files of the owner: manifests and keys."""
