"""Planned handovers of this node: the workers queue their packets, then the lease goes to the next master.

If a master closed its fence while workers still send to it, packets would be lost, and two masters at once are not
allowed. So the workers' kernels first queue their packets, for a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..egress_ips.egress_ip import EgressIPs, Event, HandoverState, Phase
from ..placement.rebalance import Transfer
from ..voting.protocol import MILLISECOND, NEVER, SECOND

QUEUE_TIMEOUT_NS = 1 * SECOND
"""Longest time that a master waits for workers. A worker answers within a round trip, or later on a busy machine; a
worker that has just died must not delay the packets of the others for ever.
"""
IN_FLIGHT_NS = 5 * MILLISECOND
"""Time for which a master continues once all workers queue: for packets that are under way to the master, and for the
replies to these packets.
"""


class Handovers:
    """The handovers in progress on one node. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self, egress_ips: EgressIPs) -> None:
        self._egress_ips = egress_ips

    def start(self, identity: str, transfer: Transfer, workers: Iterable[str], now: int) -> None:
        """Start the handover of an egress IP that this node owns.

        The handover ends when all ``workers`` queue their packets.
        """
        awaited = set(workers)
        deadline = now + QUEUE_TIMEOUT_NS if awaited else now
        handover = HandoverState(transfer.target, transfer.reason, deadline, awaited, transfer.shared)
        self._egress_ips.transition(identity, Event.HAND_OVER, handover=handover)

    def note_queueing(self, node: str, identities: Iterable[str], now: int) -> None:
        """Note that ``node`` queues the packets of these egress IPs and sends none to this master any more."""
        for identity in identities:
            record = self._egress_ips.find(identity)
            handover = record.state.handover if record else None
            if handover and node in handover.awaited:
                handover.awaited.discard(node)
                if not handover.awaited:
                    handover.deadline = min(handover.deadline, now + IN_FLIGHT_NS)

    def ready(self, now: int) -> list[tuple[str, HandoverState]]:
        """Return the handovers whose workers all queue, or that have waited too long."""
        return [(identity, handover) for identity, handover in self._running() if now >= handover.deadline]

    def next_wake(self) -> int:
        """Return the next moment at which a handover has waited too long."""
        return min((handover.deadline for _, handover in self._running()), default=NEVER)

    def _running(self) -> list[tuple[str, HandoverState]]:
        records = self._egress_ips.in_phase(Phase.HANDING_OVER)
        return [(record.id, record.state.handover) for record in records if record.state.handover]
