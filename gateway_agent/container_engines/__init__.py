"""Read labels and networks of containers from the stores of container engines."""
