"""Faults of a master while many connections are open, and what becomes of these."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..lab.connections import Connections, Fates, fates
from ..lab.lab import Lab
from ..lab.waiting import until
from .conftest import GATEWAY

Act = Callable[[Lab, str], object]
DRAINED: tuple[Act, Act] = (
    lambda lab, master: lab.nodes[master].egressctl("drain"),
    lambda lab, master: lab.nodes[master].egressctl("undrain"),
)
CUT_OFF: tuple[Act, Act] = (Lab.cut, Lab.mend)
"""A fault with the act that undoes it; each is called with the name of the master."""
ROUND_NS = 3_000_000_000
"""Nanoseconds in which each of the connections has had its turn."""


def standbys(lab: Lab, master: str) -> list[str]:
    """Return the other egress nodes."""
    return [name for name, node in lab.nodes.items() if node.host.is_egress and name != master]


def fates_after(fault: tuple[Act, Act], lab: Lab, master: str, connections: Connections) -> Fates:
    """Strike the master, wait until each connection has had its turn behind another one, undo the fault."""
    strike, heal = fault
    struck = time.time_ns()
    strike(lab, master)
    try:
        until(lambda: lab.master(GATEWAY, "w1") not in ("", master), "another one serves")
        until(lambda: time.time_ns() > struck + ROUND_NS, "each has had its turn")
        return fates(connections.stop(), struck)
    finally:
        heal(lab, master)
