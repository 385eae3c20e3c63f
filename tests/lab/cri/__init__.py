"""A real container runtime on a node of a lab, asked as a kubelet asks it."""
