"""Work that is left to do before an input has been handled."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Due:
    """Set by the parts of a node; read and cleared by :meth:`gateway_agent.lease.node.LeaseNode._finish` alone."""

    decision: bool = False
    """True if something has changed that decides which node asks for which lease."""
    heartbeat: bool = False
    push: bool = False
    """True if the subscribers are informed too."""
    revision: int = 0
    """Grows when what others are shown has changed."""
