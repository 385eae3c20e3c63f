"""The node that should serve each egress IP: candidates, the even spread, handovers to a better node, late nodes."""
