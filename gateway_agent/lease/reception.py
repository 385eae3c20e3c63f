"""Handle messages of other nodes, one after another: change the state of this node, and answer."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from . import limits
from .message_builder import STOPPING
from .messages.bodies import Answer, Handover, Heartbeat, Holding, Subscribe, epochs_in
from .messages.wire import Opened
from .node_state import NodeState
from .voting.members import Member
from .voting.protocol import DURATION, SECOND, Release
from .voting.voter_node import VoteRequest
from .voting.voter_set import PROPOSER_LEASE

REPEATS_NS = 1 * SECOND
"""Time after which a heartbeat is handled in full though it says nothing new: see :data:`.limits.CONFIRMED_NS`."""


@dataclass
class _Handled:
    """The last heartbeat of a node that was handled in full, and nothing was open after it."""

    heartbeat: Heartbeat
    version: int
    """The version of the egress IPs after it."""
    at: int


class Reception:
    """The receiving part of one node. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self, node: NodeState, now: int) -> None:
        self._node = node
        self._epochs = limits.EpochLimit()
        self._next_correction = now
        self._releases: dict[str, frozenset[Release]] = {}
        """The releases in the last heartbeat of each node."""
        self._handled: dict[str, _Handled] = {}
        """The last message of each node that was handled in full."""

    def forget_old(self) -> None:
        """Drop the ids without a known epoch, and the nodes that are gone."""
        egress_ips = self._node.ownership.egress_ips
        known = {each.id for each in egress_ips if each.highest_epoch is not None}
        self._epochs.forget(known)
        peers = self._node.endpoint.peers
        self._releases = {name: named for name, named in self._releases.items() if name in peers}
        self._handled = {
            name: last
            for name, last in self._handled.items()
            if name in peers and last.version == egress_ips.version
        }

    def take(self, opened: Opened, now: int) -> None:
        """Handle one message that was authentic and fresh."""
        sender, body = opened.sender, opened.body
        repeated = isinstance(body, Heartbeat) and self._repeats(sender, body, now)
        epochs = epochs_in(body) if body is not None and not repeated else {}
        if self._epochs.refused(epochs, self._node.ownership.master_table.all_highest(epochs), now):
            self._node.endpoint.counters["out_of_bounds"] += 1
            return
        if isinstance(body, Heartbeat | Answer | Subscribe) and self._node.voter_set.merge(
            sender, body.voters, body.accepted, now
        ):
            self._node.voters_changed()
        if isinstance(body, Heartbeat | Subscribe):
            self._node.agreement.on_facts(sender, body.facts, now, self._node.wall(now))
        if isinstance(body, Heartbeat):
            if not repeated or not self._repeat(sender, body, now):
                self._take_heartbeat(sender, body, now)
            if self._node.me in body.asked:
                self.vote(sender, opened.incarnation, body.vote_request, now)
        elif isinstance(body, Answer):
            self._count(sender, body, now)
        elif isinstance(body, Subscribe):
            self._node.subscribers.add(sender, now, body.carries)
            for identity, epoch, master in body.known:
                self._node.ownership.bump_epoch(identity, epoch, master)
            heartbeat = self._node.message_builder.heartbeat(
                self._node.config, self._node.lifecycle.stopping, now
            )
            self._node.outbox.put([sender], msgspec.structs.replace(heartbeat, facts=self._node.facts))
        elif isinstance(body, Holding):
            self._node.ownership.note_queueing(sender, body.ids, now)
        elif isinstance(body, Handover):
            self.move(body, now)

    def move(self, wanted: Handover, now: int) -> None:
        """Start a requested handover if this node is master; otherwise pass the request on to the master, once."""
        master = self._node.ownership.master_table.of(wanted.id).master
        if self._node.ownership.holds(wanted.id, now):
            self._node.ownership.rebalance.move(wanted.id, wanted.to, now)
            self._node.due.decision = True
        elif master != self._node.me:
            self._node.outbox.put([master], wanted)

    def _repeats(self, sender: str, heartbeat: Heartbeat, now: int) -> bool:
        """Return True if a heartbeat says what the one before said, and this node has the same egress IPs as then."""
        last = self._handled.get(sender)
        return (
            last is not None
            and now < last.at + REPEATS_NS
            and last.version == self._node.ownership.egress_ips.version
            and _says(last.heartbeat) == _says(heartbeat)
        )

    def _repeat(self, sender: str, heartbeat: Heartbeat, now: int) -> bool:
        """Take in the receipt of a heartbeat that says nothing new. Return False if it must be handled in full."""
        if not self._node.failure_detector.repeat(sender, now):
            return False
        self._node.quorum_view.raise_max_lease(heartbeat.duration_ns)
        self._node.ownership.follow(sender, self._handled[sender].heartbeat.masters, now)
        return True

    def _take_heartbeat(self, sender: str, heartbeat: Heartbeat, now: int) -> None:
        self._handled.pop(sender, None)
        self._node.quorum_view.raise_max_lease(heartbeat.duration_ns)
        if heartbeat.reason == STOPPING:
            self._node.subscribers.leave(sender)
        named = self._releases.get(sender, frozenset())
        for release in heartbeat.releases:
            # Releases are repeated for a second, in case a datagram is lost; only the first copy is handled.
            if release not in named:
                self._node.ownership.take_release(release, now)
        self._releases[sender] = frozenset(heartbeat.releases)
        if sender in self._node.egress_nodes:
            member = _member(heartbeat, now)
            if self._node.failure_detector.on_heartbeat(sender, member):
                self._node.due.decision = True
                self._node.due.revision += 1
        elif not self._node.ownership.master_table.follows(sender):
            # A master that is no longer an egress node counts until it has handed over.
            return
        outranked = self._node.ownership.master_table.outranked(sender, heartbeat.masters)
        if outranked and now >= self._next_correction:
            # The sender learns the highest epoch at once, and claims a higher one.
            self._next_correction = now + self._node.config.heartbeat_ns // 2
            self._node.subscribe([sender], now)
        for announcement in heartbeat.masters:
            self._node.ownership.resolve_conflict(sender, announcement, now)
        self._node.ownership.follow(sender, heartbeat.masters, now)
        held = [
            m.id
            for m in heartbeat.masters
            if m.leaving and self._node.ownership.master_table.of(m.id).master == sender
        ]
        if held:
            self._node.outbox.put([sender], Holding(tuple(held)))
        if not (heartbeat.reason or heartbeat.releases or outranked or held):
            self._handled[sender] = _Handled(heartbeat, self._node.ownership.egress_ips.version, now)

    def vote(self, sender: str, incarnation: int, request: VoteRequest, now: int) -> None:
        """Vote on the claims of a request, and answer."""
        verdict = self._node.voter_node.vote(sender, incarnation, request, self._node.config.duration_ns, now)
        voter_set = self._node.voter_set
        answer = Answer(request.seq, voter_set.current, voter_set.accepted, verdict.granted, verdict.refused)
        if sender == self._node.me:
            self._count(sender, answer, now)
        else:
            self._node.outbox.put([sender], answer)

    def _count(self, voter: str, answer: Answer, now: int) -> None:
        request = self._node.ownership.count(voter, answer, now)
        if request is None:
            return
        self._node.quorum_view.answer(voter, now)
        if self._node.watch_isolation(now):
            # Now this node may request egress IPs without a master, and receive handovers.
            self._node.due.heartbeat = self._node.due.decision = True
        if any(refusal.why == DURATION for refusal in answer.refused) and now >= self._next_correction:
            # The answer has the voter's settings: the next request asks for no longer lease than the voter grants.
            self._next_correction = now + self._node.config.heartbeat_ns // 2
            self._node.subscribe([voter], now)
        if PROPOSER_LEASE in answer.granted and PROPOSER_LEASE in request.claims:
            current = self._node.voter_set.current
            decided = self._node.proposer.count(
                voter, request, answer.accepted, current, lambda: self._node.quorum_view.wanted_voters(now)
            )
            if decided and decided.version == current.version + 1:
                self._node.voter_set.adopt(decided, now)
                self._node.voters_changed()


def _says(heartbeat: Heartbeat) -> tuple[object, ...]:
    """Return all that a heartbeat says of its sender; the rest is its request."""
    return (
        heartbeat.claims,
        heartbeat.releases,
        heartbeat.isolated,
        heartbeat.reason,
        heartbeat.unready,
        heartbeat.masters,
        heartbeat.warming,
        heartbeat.known,
    )


def _member(heartbeat: Heartbeat, now: int) -> Member:
    """Return the sender of a heartbeat as a member."""
    known = None if heartbeat.known is None else frozenset(heartbeat.known)
    warming = frozenset(heartbeat.warming)
    return Member(now, heartbeat.isolated, heartbeat.reason, heartbeat.unready, warming, known)
