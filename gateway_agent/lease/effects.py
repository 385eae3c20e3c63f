"""The effects of an input to the lease node, in the order in which they must be carried out."""

from __future__ import annotations

from .messages.outbox import Send
from .node_state import NodeState, Remember
from .tunnels import TunnelEffect, Tunnels
from .virtual_ips import serving
from .virtual_ips.conflict_detection import ConflictDetection
from .virtual_ips.serving import VirtualIPs

Effect = Send | Remember | TunnelEffect | serving.Effect


class Effects:
    """Collects the effects of the parts of one node."""

    def __init__(
        self, state: NodeState, tunnels: Tunnels, virtual_ips: VirtualIPs, conflicts: ConflictDetection
    ) -> None:
        self._state = state
        self._tunnels = tunnels
        self._virtual_ips = virtual_ips
        self._conflicts = conflicts
        self._pending: list[Effect] = []
        """Effects that are not yet returned. If an input raises, the effects it had decided on are returned with the
        next input, in order: a fence is closed, and a grant stored, before anything that relies on either is sent.
        """

    def collect(self, now: int) -> list[Effect]:
        """Return the effects in order: whatever other nodes may rely on is done before any message is sent."""
        ownership, pending = self._state.ownership, self._pending
        # Tunnels first: a master that learns that this node queues its packets relies on it.
        self._tunnels.follow(ownership.master_table.changed, ownership.master_table, now, pending)
        ownership.master_table.changed.clear()
        # Then the fence: it must be closed before a release is sent, and have the ticket before a request is sent.
        owner = ownership.owner
        after = self._virtual_ips.reconcile(
            owner.held(now), ownership.specs, now, pending, owner.running.renewals
        )
        self._state.remember(pending)
        pending += self._state.outbox.take()
        pending += [*after, *self._conflicts.take_probes()]
        self._pending = []
        return pending
