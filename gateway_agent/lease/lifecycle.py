"""How long a keeper lives: it outlives its agent for a while, and ends when all is handed over."""

from __future__ import annotations

from .voting.protocol import NEVER, SECOND

HANDOVER_NS = 2 * SECOND
"""How long a stopping node waits for its successors."""
ORPHAN_NS = 10 * SECOND
"""How long leases are kept without a sign of life of the agent; then they are handed over."""

ATTENDED_NS = 3 * SECOND


class Lifecycle:
    """One keeper's. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self, now: int) -> None:
        self._attended_at = now
        self._stopping_at = NEVER

    def agent_seen(self, now: int) -> None:
        """The agent has given a sign of life."""
        self._attended_at = now

    def attended(self, now: int) -> bool:
        """Whether the agent has given a sign of life a moment ago; it gives one each second."""
        return now < self._attended_at + ATTENDED_NS

    def stop(self, now: int) -> None:
        """From now on everything is handed over. A second call changes nothing."""
        self._stopping_at = min(self._stopping_at, now)

    @property
    def stopping(self) -> bool:
        return self._stopping_at < NEVER

    def agent_gone(self, now: int) -> bool:
        """Whether the agent has gone and nobody has told the keeper to stop."""
        return now >= self.next_wake()

    def next_wake(self) -> int:
        """When it is orphaned."""
        return NEVER if self.stopping else self._attended_at + ORPHAN_NS

    def over(self, handed_over: bool, now: int) -> bool:
        """Stopping, and either everything has a new master or nobody takes it."""
        return self.stopping and (handed_over or now >= self._stopping_at + HANDOVER_NS)
