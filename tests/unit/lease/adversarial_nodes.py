"""Nodes without manners: voters and owners as they are, asked for anything at any time.

The daemon asks only when it hears a majority, when nobody else is master, when a change has settled. None of that
may be needed for there to be one master: here nobody is considerate, messages take as long as they like, and only
the rules of :mod:`gateway_agent.lease.voting.protocol`, ``voter_node``, ``voter_set`` and ``proposer`` are left.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from gateway_agent.lease.egress_ips.egress_ip import EgressIPs, Event, Phase
from gateway_agent.lease.mastership.owner import Owner
from gateway_agent.lease.messages.bodies import Answer, Heartbeat
from gateway_agent.lease.voting.proposer import Proposer
from gateway_agent.lease.voting.protocol import MILLISECOND, Claim, Release, Verdict
from gateway_agent.lease.voting.voter_node import VoterNode
from gateway_agent.lease.voting.voter_set import PROPOSER_LEASE, Memory, VoterSet, VoterSetState

ONE = "0000000000000001"
DURATION = 500 * MILLISECOND
Wanted = Callable[[VoterSet], VoterSet | None]


@dataclass
class Node:
    name: str
    rate: float
    """Rate of the node's clock against true time."""
    memory: Memory
    incarnation: int = 0
    egress_ips: EgressIPs = field(init=False)
    owner: Owner = field(init=False)
    voter_set_state: VoterSetState = field(init=False)
    voter_node: VoterNode = field(init=False)
    proposer: Proposer = field(init=False)

    def start(self, now: int) -> None:
        self.incarnation += 1
        self.egress_ips = EgressIPs()
        self.owner, self.proposer = Owner(self.egress_ips), Proposer(self.name)
        self.voter_set_state = VoterSetState(self.name, self.memory, now)
        self.voter_node = VoterNode(self.voter_set_state, self.memory, DURATION, now)

    def clock(self, true: int) -> int:
        return int(true * self.rate)

    def true(self, clock: int) -> int:
        """Return the first moment at which the clock shows at least this."""
        return int(clock / self.rate) + 2

    def expire(self, now: int) -> None:
        for identity in self.owner.lost(now):
            self.owner.drop(identity, Event.EXPIRE)


class AdversarialNetwork:
    """``now``: true time, nanoseconds. All know set 1, which is made of ``members``."""

    def __init__(self, rates: dict[str, float], members: tuple[str, ...]) -> None:
        self.now = 0
        self.nodes = {
            name: Node(name, rate, Memory(VoterSet(1, members), None, (0, ""), DURATION, DURATION, 0))
            for name, rate in rates.items()
        }
        self.decided: dict[int, VoterSet] = {1: VoterSet(1, members)}
        self._epochs = itertools.count(1)
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        for node in self.nodes.values():
            node.start(node.clock(0))

    def ask(
        self,
        name: str,
        ids: Iterable[str],
        reached: Collection[str],
        out_ns: int,
        back_ns: int,
        wanted: Wanted,
    ) -> None:
        """One heartbeat, to those that are ``reached``, and this long on its way there and back."""
        node = self.nodes[name]
        now = node.clock(self.now)
        node.expire(now)
        for identity in ids:
            if node.egress_ips.lease(identity) is None:
                node.egress_ips.transition(identity, Event.MASTERLESS)
                node.owner.ask(identity, next(self._epochs), now)
        voter_set_state = node.voter_set_state
        request = node.owner.request(voter_set_state.quorum(DURATION, now), DURATION, now)
        heartbeat = Heartbeat(
            request.seq,
            DURATION,
            voter_set_state.current,
            voter_set_state.accepted,
            request.quorum.asked,
            tuple(Claim(identity, epoch) for identity, epoch in request.claims.items()),
            (),
            False,
            "",
            {},
            (),
            node.proposer.proposal,
        )
        incarnation = node.incarnation

        def arrive(voter: Node) -> None:
            answer = self._vote(voter, node, incarnation, heartbeat)
            self._later(
                0 if voter is node else back_ns, lambda: self._count(node, incarnation, voter, answer, wanted)
            )

        for voter in self.nodes.values():
            if voter.name in heartbeat.asked and (voter is node or voter.name in reached):
                self._later(0 if voter is node else out_ns, lambda voter=voter: arrive(voter))  # type: ignore[misc]
        self.run(0)

    def release(self, name: str, reached: Collection[str]) -> None:
        node = self.nodes[name]
        if node.egress_ips.lease(ONE) is not None:
            requesting = node.egress_ips.record(ONE).phase is Phase.REQUESTING
            lease = node.owner.drop(ONE, Event.UNABLE if requesting else Event.RELEASE)
            assert lease is not None
            release = Release(ONE, lease.epoch, name, node.incarnation, "")
            for voter in (name, *reached):
                self.nodes[voter].voter_node.release(release, self.nodes[voter].clock(self.now))

    def share_voter_set(self, name: str, other: str) -> None:
        """``other`` learns what ``name`` knows of the voters."""
        known, node = self.nodes[name].voter_set_state, self.nodes[other]
        node.voter_set_state.merge(name, known.current, known.accepted, node.clock(self.now))
        self._store(node)

    def restart(self, name: str) -> None:
        self.nodes[name].start(self.nodes[name].clock(self.now))

    def run(self, duration_ns: int) -> None:
        end = self.now + duration_ns
        while self._queue and self._queue[0][0] <= end:
            self.now, _, happen = heapq.heappop(self._queue)
            happen()
        self.now = end

    def ends(self) -> list[int]:
        """Return the moments, from now on, at which a grant or a lease on :data:`ONE` ends."""
        grants = [
            (n, n.voter_node.voter.grants[ONE].until)
            for n in self.nodes.values()
            if ONE in n.voter_node.voter.grants
        ]
        leases = [(n, lease.until) for n in self.nodes.values() if (lease := n.egress_ips.lease(ONE))]
        return sorted({end for n, until in grants + leases if (end := n.true(until)) > self.now})

    def holders(self) -> list[str]:
        return [n.name for n in self.nodes.values() if n.egress_ips.holds(ONE, n.clock(self.now))]

    def _vote(self, voter: Node, asking: Node, incarnation: int, heartbeat: Heartbeat) -> Answer:
        now = voter.clock(self.now)
        voter.voter_set_state.merge(asking.name, heartbeat.voters, heartbeat.accepted, now)
        verdict = voter.voter_node.vote(asking.name, incarnation, heartbeat.vote_request, DURATION, now)
        self._store(voter)
        voter_set_state = voter.voter_set_state
        return Answer(
            heartbeat.seq, voter_set_state.current, voter_set_state.accepted, verdict.granted, verdict.refused
        )

    def _count(self, node: Node, incarnation: int, voter: Node, answer: Answer, wanted: Wanted) -> None:
        if node.incarnation != incarnation:
            return
        now = node.clock(self.now)
        node.expire(now)
        node.voter_set_state.merge(voter.name, answer.voters, answer.accepted, now)
        request = node.owner.count(voter.name, answer.seq, Verdict(answer.granted, answer.refused), now)
        assert len(self.holders()) <= 1, f"{self.holders()} at {self.now / MILLISECOND} ms"
        if request and PROPOSER_LEASE in answer.granted:
            current = node.voter_set_state.current
            decided = node.proposer.count(
                voter.name, request, answer.accepted, current, lambda: wanted(current)
            )
            if decided and decided.version == current.version + 1:
                assert self.decided.setdefault(decided.version, decided) == decided, "two sets of one version"
                node.voter_set_state.adopt(decided, now)
        self._store(node)

    def _store(self, node: Node) -> None:
        memory = node.voter_node.memory(DURATION)
        assert memory is not None
        node.memory = memory

    def _later(self, delay_ns: int, happen: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay_ns, next(self._order), happen))
