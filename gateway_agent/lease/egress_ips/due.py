"""Work that must be done before the handling of an input ends."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Due:
    """The pending work.

    The parts of a node set it; only :meth:`gateway_agent.lease.node.LeaseNode._finish` clears it.
    """

    decision: bool = False
    """True if a fact has changed that may change which node requests which lease."""
    heartbeat: bool = False
    push: bool = False
    """True if the subscribers are informed too."""
    revision: int = 0
    """Number that grows whenever the status has changed."""
