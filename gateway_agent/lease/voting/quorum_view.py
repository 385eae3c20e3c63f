"""The voters that answer this node, and whether they suffice for leases.

A node may request leases, or not, from a certain quorum of a certain voter set.
"""

from __future__ import annotations

from dataclasses import dataclass

from .protocol import NEVER, SECOND, Quorum
from .voter_set import VoterSet, VoterSetState, first_voters, next_voters

CANDIDATE_TTL_NS = 5 * SECOND
"""Largest age of the last message of a node that can become a voter: each node subscribes every two seconds."""
DEAD_AFTER_NS = 10 * SECOND
"""Time without a message after which a voter is replaced."""
NO_QUORUM_TIMEOUT_NS = 3 * SECOND
"""``AvailabilityFirst``: how long no majority must have answered."""
NEVER_RECEIVED = -NEVER


@dataclass(frozen=True)
class Electorate:
    """The nodes that can vote, and the rules for few of them."""

    me: str
    names: tuple[str, ...]
    """All nodes of the inventory, this one too."""
    egress_nodes: tuple[str, ...]
    """The nodes that can be master, sorted."""
    duration_ns: int
    """Lease time of this node."""
    availability_first: bool
    published: VoterSet | None
    """The voter set on record in the cluster."""


class QuorumView:
    """The view of one node. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(
        self, electorate: Electorate, voter_set_state: VoterSetState, silent_until: int, now: int
    ) -> None:
        """``silent_until``: the earliest moment at which this node votes."""
        self.voter_set_state = voter_set_state
        self.longest_ns = electorate.duration_ns
        """The longest lease time that was ever in use, as far as this node knows, nanoseconds."""
        self._silent_until = silent_until
        self._started_at = self._last_received_at = now
        self._received_at: dict[str, int] = {}
        self._answered: dict[str, int] = {}
        self._majority: tuple[tuple[str, ...], int] = ((), NEVER_RECEIVED)
        """A voter set, and a moment since which a majority of this set has answered."""
        self.configure(electorate)

    def configure(self, electorate: Electorate) -> None:
        """Apply another configuration."""
        self._electorate = electorate
        self._me, self._names = electorate.me, electorate.names
        self.egress_nodes = electorate.egress_nodes
        self._expects_others = any(name != self._me for name in self.egress_nodes)
        # A voter may have left the inventory. It sends no more messages, but its last answer counts as long as others.
        known = {*self._names, *self.voter_set_state.current.members}
        self._received_at = {name: at for name, at in self._received_at.items() if name in known}
        self._answered = {name: at for name, at in self._answered.items() if name in known}
        self._majority = (), NEVER_RECEIVED
        self.voter_set_state.bootstrap_from(first_voters(self.egress_nodes, self._names))
        self.raise_max_lease(electorate.duration_ns)
        # The last of two nodes has no majority to wait for, and probes the LAN. AvailabilityFirst accepts the risk.
        held = len(self._names) > 2 and not electorate.availability_first
        self.voter_set_state.published = electorate.published if held else None

    def raise_max_lease(self, duration_ns: int) -> None:
        """Note that a node uses leases of this length."""
        self.longest_ns = max(self.longest_ns, duration_ns)

    def on_message(self, node: str, now: int) -> None:
        """Note a fresh message of a node."""
        self._received_at[node] = self._last_received_at = now

    def receives_from_no_peer(self, now: int) -> bool:
        """Return True if no message has come from another node for long, though an egress node should answer."""
        return self._expects_others and now > self._last_received_at + CANDIDATE_TTL_NS

    def silent(self, now: int) -> tuple[str, ...]:
        """Return the nodes, sorted, that should have sent messages and have not done so for long.

        The egress nodes answer all nodes, and all nodes subscribe to an egress node.
        """
        expected = self._names if self._me in self.egress_nodes else self.egress_nodes
        silent_for = (
            name
            for name in expected
            if now > self._received_at.get(name, self._started_at) + CANDIDATE_TTL_NS
        )
        return tuple(sorted(name for name in silent_for if name != self._me))

    def answer(self, voter: str, now: int) -> None:
        """Note that a voter has answered a request of this node."""
        self._answered[voter] = now

    def recover(self, now: int) -> bool:
        """End the wait for reports of other voters. See :meth:`.voter_set.VoterSetState.finish_recovery`."""
        return self.voter_set_state.finish_recovery(self._names, now)

    def isolated(self, now: int) -> bool:
        """Return True if no majority of the voters answers.

        For one lease time after a change of the voter set, a majority of the previous set is enough. A new voter has
        not been asked yet: while it replaces a dead one, there would be no majority until its first answer.
        """
        return (
            not self._has_majority(now)
            and now - self._majority_answered_at(now) > self._electorate.duration_ns
        )

    def may_serve_without_quorum(self, now: int) -> bool:
        """Return True if this node may be master by the votes of the remaining voters: the rule for few nodes."""
        if self._has_majority(now):
            return False
        duration_ns = self._electorate.duration_ns
        silent_ns = now - max(self._majority_answered_at(now), self._started_at)
        if silent_ns <= duration_ns or self.voter_set_state.recovering or now < self._silent_until:
            return False
        if self._electorate.availability_first and silent_ns >= NO_QUORUM_TIMEOUT_NS:
            return True
        received = [self._received_at.get(name, NEVER_RECEIVED) for name in self._names if name != self._me]
        return len(received) <= 1 and all(now - at > duration_ns for at in received)

    def quorum(self, now: int) -> Quorum:
        """Return the voters whose grants make a lease for this node now."""
        quorum = self.voter_set_state.quorum(self.longest_ns, now)
        if not self.may_serve_without_quorum(now):
            return quorum
        duration_ns = self._electorate.duration_ns
        left = [m for m in quorum.asked if now - self._answered.get(m, NEVER_RECEIVED) <= duration_ns]
        sets = (tuple(sorted({*left, self._me})),)
        return Quorum(quorum.version, sets, tuple(sorted({*quorum.asked, self._me})), without_quorum=True)

    def wanted_voters(self, now: int) -> VoterSet | None:
        """Return the next voter set that this node would propose as proposer."""
        settled = max(SECOND, 2 * self.longest_ns)
        if now < self.voter_set_state.learned_at + settled:
            return None
        me, names = self._me, self._names
        silent_for = {n: 0 if n == me else now - self._received_at.get(n, self._started_at) for n in names}
        alive = [n for n in names if n == me or (n in self._received_at and silent_for[n] < CANDIDATE_TTL_NS)]
        dead = [n for n in names if silent_for[n] >= DEAD_AFTER_NS]
        return next_voters(self.voter_set_state.current, self.egress_nodes, names, alive, dead)

    def _has_majority(self, now: int) -> bool:
        """Return True if a majority of the present voters has answered within a lease time.

        Each message calls this method. Answers only become newer, so a moment that was computed once is valid for a
        lease time.
        """
        members = self.voter_set_state.current.members
        if self._majority[0] is not members or now - self._majority[1] > self._electorate.duration_ns:
            self._majority = members, self._answered_at(members)
        return now - self._majority[1] <= self._electorate.duration_ns

    def _majority_answered_at(self, now: int) -> int:
        """Return the moment since which a majority of the voter set, or of the set a lease time ago, has answered."""
        voter_set_state = self.voter_set_state
        sets = (voter_set_state.current.members, *voter_set_state.superseded(self.longest_ns, now))
        return max(self._answered_at(members) for members in sets)

    def _answered_at(self, members: tuple[str, ...]) -> int:
        """Return the moment since which a majority of ``members`` has answered."""
        moments = sorted((self._answered.get(m, NEVER_RECEIVED) for m in members), reverse=True)
        return moments[len(members) // 2] if members else NEVER_RECEIVED
