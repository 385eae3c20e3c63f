"""From objects, kernel and masters to the plan of one node. Pure."""
