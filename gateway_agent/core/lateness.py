"""A node that loses its leases again and again: it stands behind the others until it has been calm for a while.

Its machine is starved, or its network comes and goes. Each of its leases ends without renewal, another node takes over
for a moment, and loses it again. Nothing here touches how leases are granted.
"""

from __future__ import annotations

from .lease import SECOND

WINDOW_NS = 60 * SECOND
"""Losses within this count together; and for so long without one a node must have been calm."""
TOO_OFTEN = 3


class Lateness:
    """One node's. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self) -> None:
        self._losses: list[int] = []
        self._late = False

    def lose(self, now: int) -> None:
        """Take in that leases of this node have ended without renewal."""
        self._losses = [*self._recent(now), now]
        self._late = self._late or len(self._losses) >= TOO_OFTEN

    def is_late(self, now: int) -> bool:
        """Return whether this node lost its leases too often, and has not been calm since."""
        self._late = self._late and bool(self._recent(now))
        return self._late

    def problem(self, now: int) -> str:
        """Return what an operator should know; empty if there is nothing."""
        if not self.is_late(now):
            return ""
        return (
            f"this node lost its leases {len(self._recent(now))} times in {WINDOW_NS // SECOND} s, because it renewed "
            "them late: until it has been calm for as long it takes over only what no other node can. Give the lease "
            "keeper real-time priority (CAP_SYS_NICE), the machine more processor time, or all nodes longer leases"
        )

    def _recent(self, now: int) -> list[int]:
        return [at for at in self._losses if now - at < WINDOW_NS]
