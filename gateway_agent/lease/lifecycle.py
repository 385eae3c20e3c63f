"""The life of a lease daemon, which outlives its agent for a while and ends once every lease is handed over."""

from __future__ import annotations

from .voting.protocol import NEVER, SECOND

HANDOVER_NS = 2 * SECOND
"""Longest time that a stopping node waits for its successors."""
ORPHAN_NS = 10 * SECOND
"""Time for which leases are kept without a sign of life of the agent; after that the leases are handed over."""

ATTENDED_NS = 3 * SECOND


class Lifecycle:
    """The life of one daemon. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self, now: int) -> None:
        self._attended_at = now
        self._stopping_at = NEVER

    def agent_seen(self, now: int) -> None:
        """Note a sign of life of the agent."""
        self._attended_at = now

    def attended(self, now: int) -> bool:
        """Return True if the agent has given a sign of life lately; the agent gives one each second."""
        return now < self._attended_at + ATTENDED_NS

    def stop(self, now: int) -> None:
        """Start to hand over every lease. A second call changes nothing."""
        self._stopping_at = min(self._stopping_at, now)

    @property
    def stopping(self) -> bool:
        """Return True if every lease is to be handed over."""
        return self._stopping_at < NEVER

    def agent_gone(self, now: int) -> bool:
        """Return True if the agent has gone and the daemon was not asked to stop."""
        return now >= self.next_wake()

    def next_wake(self) -> int:
        """Return the moment at which the agent counts as gone."""
        return NEVER if self.stopping else self._attended_at + ORPHAN_NS

    def over(self, handed_over: bool, now: int) -> bool:
        """Return True if the daemon stops, and each egress IP has a new master or no node takes it over."""
        return self.stopping and (handed_over or now >= self._stopping_at + HANDOVER_NS)
