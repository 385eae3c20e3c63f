"""Sets of manifests that nodes give each other."""
