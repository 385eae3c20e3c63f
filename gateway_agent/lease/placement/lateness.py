"""A node that renews late again and again: it comes after the others until it has been calm for a while.

Its machine is starved: the lease daemon gets no processor time for longer than its leases last. Another node takes over
for a moment, and loses its leases the same way. A node that is cut off loses its leases too, but is not late: only
losses right after a stall of the daemon itself count. A late node is calm when it has had no stall as long as a lease
for a while, whether or not it had leases to lose. Nothing here touches how leases are granted.
"""

from __future__ import annotations

from ..voting.protocol import SECOND

WINDOW_NS = 60 * SECOND
"""Losses within this count together; and for so long without a stall a node must have been calm."""
TOO_OFTEN = 3
STALL_NS = SECOND
"""Time after a stall within which the end of a lease is attributed to the stall."""


class Lateness:
    """One node's. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self) -> None:
        self._losses: list[int] = []
        self._last_at = -WINDOW_NS
        """The moment at which this node lost leases last, or would have lost them."""
        self._late = False
        self._stalled_at = -STALL_NS

    def stall(self, lasted_ns: int, duration_ns: int, now: int) -> None:
        """Note that the daemon has got no processor time for a large part of a lease, or for longer, until now."""
        self._stalled_at = now
        self._late = self.is_late(now)
        if lasted_ns >= duration_ns:
            self._last_at = now

    def lose(self, now: int) -> None:
        """Take in that leases of this node have ended without renewal."""
        if now - self._stalled_at >= STALL_NS:
            return
        self._losses = [*self._recent(now), now]
        self._late = self.is_late(now) or len(self._losses) >= TOO_OFTEN
        self._last_at = now

    def is_late(self, now: int) -> bool:
        """Return True if this node lost its leases too often, and has not been calm since."""
        return self._late and now < self._last_at + WINDOW_NS

    def problem(self, now: int) -> str:
        """Return what an operator should know; empty if there is nothing."""
        if not self.is_late(now):
            return ""
        return (
            f"this node lost its leases {TOO_OFTEN} times or more within {WINDOW_NS // SECOND} s, because its lease "
            "daemon got no processor time: until that has not happened for as long again it takes over only what no "
            "other node can. Give the lease daemon real-time priority (CAP_SYS_NICE), the machine more processor time, "
            "or all nodes longer leases"
        )

    def _recent(self, now: int) -> list[int]:
        return [at for at in self._losses if now - at < WINDOW_NS]
