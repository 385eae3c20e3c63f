"""Rank a node last that loses its leases again and again because its lease daemon gets no processor time.

Such a machine is starved: the daemon stalls for longer than its leases last, another node takes over, and soon the
starved node wins the egress IPs back and loses them again. A node that is cut off loses its leases as well, but is not
late: only losses within :data:`STALL_NS` after a stall of the daemon count. The node ranks as before when no stall has
lasted as long as a lease for :data:`WINDOW_NS`, whether it had leases in that time or not. Voters grant leases to a
late node as to any other.
"""

from __future__ import annotations

from ..voting.protocol import SECOND

WINDOW_NS = 60 * SECOND
"""Window in which losses are counted, and the time without a stall after which a node is no longer late."""
TOO_OFTEN = 3
"""Number of losses in the window that makes a node late."""
STALL_NS = SECOND
"""Time after a stall within which the end of a lease is attributed to the stall."""


class Lateness:
    """The losses and stalls of one node. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self) -> None:
        self._losses: list[int] = []
        self._last_at = -WINDOW_NS
        """The end of the last stall that was as long as a lease, or the last loss of a lease after a stall."""
        self._late = False
        self._stalled_at = -STALL_NS

    def stall(self, lasted_ns: int, duration_ns: int, now: int) -> None:
        """Note a stall that ends now: for ``lasted_ns``, a large part of a lease or more, the daemon did not run."""
        self._stalled_at = now
        self._late = self.is_late(now)
        if lasted_ns >= duration_ns:
            self._last_at = now

    def lose(self, now: int) -> None:
        """Note that leases of this node have ended without renewal."""
        if now - self._stalled_at >= STALL_NS:
            return
        self._losses = [*self._recent(now), now]
        self._late = self.is_late(now) or len(self._losses) >= TOO_OFTEN
        self._last_at = now

    def is_late(self, now: int) -> bool:
        """Return True if this node lost leases too often, and has not yet been without such a stall for a window."""
        return self._late and now < self._last_at + WINDOW_NS

    def problem(self, now: int) -> str:
        """Return the problem for status; empty if this node is not late."""
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
