"""Sets of manifests that nodes with the files store give each other. Pure."""
