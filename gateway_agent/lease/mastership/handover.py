"""Planned handovers of this node: the workers queue their packets, then the lease goes to the next master.

A master that closes its fence before the workers send elsewhere loses what is on its way; two masters at once there
must not be. So the workers are asked to wait first: their kernels queue the packets of a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..placement.rebalance import Gift
from ..voting.protocol import MILLISECOND, NEVER, SECOND
from .egress_ip import EgressIPs, Event, HandoverState, Phase

QUEUE_TIMEOUT_NS = 1 * SECOND
"""Longest time that a master waits for nodes that were heard a moment ago. They answer in a round trip, on a busy
machine in some more; one that has died in this very moment must not keep the others' packets for ever.
"""
UNDER_WAY_NS = 5 * MILLISECOND
"""Time for which a master continues when all nodes queue: for packets that were on their way to it, and for the
answers.
"""


class Handovers:
    """Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self, egress_ips: EgressIPs) -> None:
        self._egress_ips = egress_ips

    def start(self, identity: str, gift: Gift, workers: Iterable[str], now: int) -> None:
        """Begin to hand over what this node owns, when all ``workers`` queue their packets."""
        awaited = set(workers)
        deadline = now + QUEUE_TIMEOUT_NS if awaited else now
        handover = HandoverState(gift.target, gift.reason, deadline, awaited, gift.shared)
        self._egress_ips.transition(identity, Event.HAND_OVER, handover=handover)

    def worker_is_queueing(self, node: str, identities: Iterable[str], now: int) -> None:
        """Take in that ``node`` sends no packet of these to this master any more."""
        for identity in identities:
            record = self._egress_ips.find(identity)
            handover = record.state.handover if record else None
            if handover and node in handover.awaited:
                handover.awaited.discard(node)
                if not handover.awaited:
                    handover.deadline = min(handover.deadline, now + UNDER_WAY_NS)

    def ready(self, now: int) -> list[tuple[str, HandoverState]]:
        """Return the handovers that need not wait longer."""
        return [(identity, handover) for identity, handover in self._under_way() if now >= handover.deadline]

    def next_wake(self) -> int:
        """Return when the next handover waits no longer."""
        return min((handover.deadline for _, handover in self._under_way()), default=NEVER)

    def _under_way(self) -> list[tuple[str, HandoverState]]:
        records = self._egress_ips.in_phase(Phase.HANDING_OVER)
        return [(record.id, record.state.handover) for record in records if record.state.handover]
