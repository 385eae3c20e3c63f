"""Planned handovers of this node: the workers hold packets back, then the lease goes to the heir.

A master that closes its fence before the workers send elsewhere loses what is on its way; two masters at once there
must not be. So the workers are asked to wait first: their kernels queue the packets of a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..voting.protocol import MILLISECOND, NEVER, SECOND
from .rebalance import Gift

QUEUE_TIMEOUT_NS = 1 * SECOND
"""How long a master waits at most for nodes that were heard a moment ago. They answer in a round trip, on a busy
machine in some more; one that has died in this very moment must not keep the others' packets for ever."""
UNDER_WAY_NS = 5 * MILLISECOND
"""How long a master goes on when all hold: for what was on its way to it, and for the answers."""


@dataclass
class HandoverState:
    """One egress IP on its way to another node. The lease is renewed until then."""

    heir: str
    """Who is to ask first; empty: nobody can."""
    reason: str
    deadline: int
    awaited: set[str]
    """Nodes that have not said yet that they hold."""
    shared: bool = False
    """See :attr:`gateway_agent.lease.voting.protocol.Release.shared`."""


class Handovers:
    """Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self) -> None:
        self._by_id: dict[str, HandoverState] = {}

    def __contains__(self, identity: str) -> bool:
        return identity in self._by_id

    def __len__(self) -> int:
        return len(self._by_id)

    def start(self, identity: str, gift: Gift, workers: Iterable[str], now: int) -> None:
        awaited = set(workers)
        deadline = now + QUEUE_TIMEOUT_NS if awaited else now
        self._by_id[identity] = HandoverState(gift.heir, gift.reason, deadline, awaited, gift.shared)

    def worker_is_queueing(self, node: str, identities: Iterable[str], now: int) -> None:
        """``node`` sends no packet of these to this master any more."""
        for departure in (self._by_id[i] for i in identities if i in self._by_id):
            if node in departure.awaited:
                departure.awaited.discard(node)
                if not departure.awaited:
                    departure.deadline = min(departure.deadline, now + UNDER_WAY_NS)

    def ready(self, now: int) -> list[tuple[str, HandoverState]]:
        """Those that need not wait longer."""
        return [(i, d) for i, d in self._by_id.items() if now >= d.deadline]

    def end(self, identity: str) -> None:
        self._by_id.pop(identity, None)

    def next_wake(self) -> int:
        return min((departure.deadline for departure in self._by_id.values()), default=NEVER)
