"""Build the messages of a node about itself: the heartbeat, and the subscription to egress nodes."""

from __future__ import annotations

from collections.abc import Iterable

from .ipc import Facts, KeeperConfig
from .mastership.ownership import Ownership
from .messages.bodies import Heartbeat, Subscribe
from .messages.outbox import Outbox
from .placement.placement import rendezvous_hash
from .voting.proposer import Proposer
from .voting.protocol import SECOND, Claim, Request
from .voting.quorum_view import QuorumView
from .voting.voter_set import VoterSetState

SUBSCRIBE_NS = 2 * SECOND
STOPPING = "stopping"
"""The reason why a node that is stopping can serve no egress IP."""


class MessageBuilder:
    """The builder of one node's messages. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(
        self,
        voter_set_state: VoterSetState,
        contact: QuorumView,
        mastership: Ownership,
        proposer: Proposer,
        outbox: Outbox,
    ) -> None:
        self._voter_set_state = voter_set_state
        self._contact = contact
        self._mastership = mastership
        self._proposer = proposer
        self._outbox = outbox
        self._claims: tuple[dict[str, int], tuple[Claim, ...]] = {}, ()
        """The claims of the last request, and as they are sent."""

    def heartbeat(
        self, config: KeeperConfig, stopping: bool, now: int, request: Request | None = None
    ) -> Heartbeat:
        """Return the heartbeat of this node; with a ``request`` the heartbeat requests leases as well."""
        mastership, voter_set_state = self._mastership, self._voter_set_state
        is_egress = config.node in self._contact.egress_nodes
        return Heartbeat(
            seq=request.seq if request else 0,
            duration_ns=request.duration_ns if request else config.duration_ns,
            voters=voter_set_state.current,
            accepted=voter_set_state.accepted,
            asked=request.quorum.asked if request else (),
            claims=self._claimed(request.claims) if request else (),
            releases=mastership.own_masters.releases(now),
            isolated=is_egress and self._contact.isolated(now),
            reason=STOPPING if stopping else "" if is_egress else "no egress node any more",
            unready=mastership.ability.unready,
            masters=mastership.own_masters.announcements(now),
            proposal=self._proposer.proposal,
            warming=mastership.ability.warming(now),
            known=mastership.ability.known,
        )

    def _claimed(self, claims: dict[str, int]) -> tuple[Claim, ...]:
        """Return claims as they are sent. The same object means the same claims."""
        if self._claims[0] is not claims:
            self._claims = claims, tuple(Claim(identity, epoch) for identity, epoch in claims.items())
        return self._claims[1]

    def subscribe(self, nodes: Iterable[str], facts: Facts | None, carries: tuple[str, ...] | None) -> None:
        """Subscribe to the masters of ``nodes``. The message names the masters that this node knows, and its settings.

        ``carries``: the egress IPs that pods of this node use; None: not known.
        """
        voter_set_state, mastership = self._voter_set_state, self._mastership
        # An id without spec and master belongs to a deleted gateway: over years, these would fill the datagram.
        known = tuple(
            each for each in mastership.master_table.known() if each[0] in mastership.specs or each[2]
        )
        self._outbox.put(
            nodes, Subscribe(voter_set_state.current, voter_set_state.accepted, known, facts, carries)
        )

    def subscription_pause(self, config: KeeperConfig, seed: int) -> int:
        """Return the nanoseconds until the next subscription: few while this node does not know the voters.

        Later the pause is a little less than the period, by a hash of ``seed``.
        """
        learning = self._voter_set_state.recovering or self._voter_set_state.current.version == 0
        pause = 2 * config.heartbeat_ns if learning else SUBSCRIBE_NS
        return pause - rendezvous_hash(config.node, str(seed)) % (pause // 4)
