"""Rank a node last whose lease daemon gets no processor time again and again.

Such a machine is starved: the daemon stalls for longer than its leases last, another node takes over, and soon the
starved node wins the egress IPs back and loses them again. A stall that lasts as long as a lease counts whether the
node had a lease to lose or not: if the machines of one host starve together, a node without leases gives no votes
meanwhile, so others lose theirs. A shorter stall counts if leases end within :data:`STALL_NS` after it. A node that is
cut off loses its leases as well, but is not late. The node ranks as before when no stall has lasted as long as a lease
for :data:`WINDOW_NS`. Voters grant leases to a late node as to any other.
"""

from __future__ import annotations

from ..voting.protocol import SECOND

WINDOW_NS = 60 * SECOND
"""Window in which stalls are counted, and the time without a stall after which a node is no longer late."""
TOO_OFTEN = 3
"""Number of stalls in the window that makes a node late."""
STALL_NS = SECOND
"""Time after a stall within which the end of a lease is attributed to the stall."""


class Lateness:
    """The stalls of one node. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self) -> None:
        self._counted: list[int] = []
        """The ends of stalls in the window that count, or the losses of leases by which a short one does."""
        self._last_at = -WINDOW_NS
        """The end of the last stall that was as long as a lease, or the last loss of a lease after a stall."""
        self._late = False
        self._stalled_at = -STALL_NS

    def stall(self, lasted_ns: int, duration_ns: int, now: int) -> None:
        """Note a stall that ends now: for ``lasted_ns``, a large part of a lease or more, the daemon did not run."""
        self._stalled_at = now
        self._late = self.is_late(now)
        if lasted_ns >= duration_ns:
            self._count(now)

    def lose(self, now: int) -> None:
        """Note that leases of this node have ended without renewal."""
        if now - self._stalled_at >= STALL_NS:
            return
        if self._counted and self._counted[-1] >= self._stalled_at:
            # Of one stall with the loss before it, or with its own length.
            self._last_at = now
        else:
            self._count(now)

    def is_late(self, now: int) -> bool:
        """Return True if this node stalled too often, and has not yet been without such a stall for a window."""
        return self._late and now < self._last_at + WINDOW_NS

    def problem(self, now: int) -> str:
        """Return the problem for status; empty if this node is not late."""
        if not self.is_late(now):
            return ""
        return (
            f"{TOO_OFTEN} times or more within {WINDOW_NS // SECOND} s this node's lease daemon got no processor time "
            "for as long as a lease lasts: until that has not happened for as long again the node takes over only what "
            "no other node can. Give the lease daemon real-time priority (CAP_SYS_NICE), the machine more processor "
            "time, or all nodes longer leases"
        )

    def _count(self, now: int) -> None:
        self._counted = [*(at for at in self._counted if now - at < WINDOW_NS), now]
        self._late = self._late or len(self._counted) >= TOO_OFTEN
        self._last_at = now
