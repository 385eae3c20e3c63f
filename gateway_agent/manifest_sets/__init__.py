"""Sets of manifests that nodes with the files store exchange. Pure."""
