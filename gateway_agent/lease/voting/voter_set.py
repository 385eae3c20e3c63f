"""The voter set: 3 or 5 nodes, with a version, changed by one node at a time.

Theory of operation
-------------------
Two majorities of consecutive sets always have a common voter, so a lease under one set excludes a lease under the next.
Each change is one round of Paxos for the next version (Lamport, "Paxos Made Simple", 2001), on top of the leases:

1. The *proposer* is the holder of one more leased id, :data:`PROPOSER_LEASE`; the epoch of its lease is the ballot.
2. A voter that grants the proposer's claim has promised to accept no older ballot, and its answer names the set that it
   accepted.
3. With answers of a majority the proposer proposes: the accepted set of the highest ballot if there is any, else the
   change that it wants (:func:`paxos_step`).
4. The set that a majority has accepted is decided. Every message names its sender's set, so all nodes learn of it.
5. A voter without memory does not vote until enough others have reported (:meth:`VoterSetState.finish_recovery`): it
   may have accepted a set that it no longer knows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from ..limits import MAX_LEASE_NS, Epoch, Members, Name
from .protocol import MILLISECOND, SECOND, Quorum, is_majority

PROPOSER_LEASE = "chair"
"""The reserved id; egress ids are 16 hex digits."""
GRACE_NS = 5 * SECOND
"""Time for which a node without memory waits for messages of enough others before it trusts the inventory alone.

A shorter time is not safe: voters may have replaced the node while it was away, and the node may be cut off from them,
for example because its network comes up late at boot. On its own it would then bootstrap a second voter set.
"""
BOOTSTRAP_NS = 300 * MILLISECOND
"""Time for which a new node waits once all nodes but one are known to be new: the others must learn that it is new,
too.
"""


class VoterSet(msgspec.Struct, frozen=True, array_like=True):
    """A voter set. Version 0 is a proposal from the inventory that no node has agreed to."""

    version: Epoch
    members: Members

    def __post_init__(self) -> None:
        if self.version and not self.members:
            raise ValueError("a voter set that was agreed has members")


class Proposal(msgspec.Struct, frozen=True, array_like=True):
    """A next voter set, proposed by the proposer of one epoch."""

    voters: VoterSet
    epoch: Epoch
    proposer: Name

    def __post_init__(self) -> None:
        if not self.voters.version:
            raise ValueError("a proposal names the version that it makes")

    @property
    def ballot(self) -> tuple[int, str]:
        """Return the ballot number of the proposal."""
        return self.epoch, self.proposer


class Memory(msgspec.Struct, frozen=True):
    """The facts that a voter must remember when its process restarts."""

    current: VoterSet
    accepted: Proposal | None
    promised: tuple[int, str]
    """Highest epoch granted to a proposer, and the proposer's name."""
    duration_ns: int
    """The lease time in use, nanoseconds: no grant lasts longer."""
    granted_until: int
    """The moment at which the last of the voter's grants ends, on this machine's ``CLOCK_BOOTTIME``."""
    learned_at: int
    """The moment at which the node learned of ``current``, on the same clock."""


def first_voters(egress: Collection[str], others: Collection[str]) -> tuple[str, ...]:
    """Return the first voter set by the inventory, sorted: egress nodes by name, then witnesses by name."""
    best_first = sorted(egress) + sorted(set(others) - set(egress))
    return tuple(sorted(best_first[: _size(egress)]))


def _size(egress: Collection[str]) -> int:
    return 5 if len(egress) >= 5 else 3


def next_voters(
    current: VoterSet,
    egress: Collection[str],
    others: Collection[str],
    alive: Collection[str],
    dead: Collection[str],
) -> VoterSet | None:
    """Return the next set, with one node more or one less; None if no better set is possible.

    ``egress`` and ``others``: the inventory. ``alive``: nodes with a recent message. ``dead``: nodes without one for
    long. Any other node is not changed. A replacement is added before its predecessor is removed.
    """
    # There may be thousands of nodes, and the process that renews the leases must not be delayed.
    alive, dead = frozenset(alive), frozenset(dead)
    best_first = [*sorted(egress), *sorted(set(others) - set(egress))]
    members = current.members
    size = min(_size(egress), len(best_first))
    unknown = [m for m in members if m not in best_first]
    useless = unknown + [m for m in best_first if m in members and m in dead]
    spare = [node for node in best_first if node in alive and node not in members]
    if len(members) > size:
        worst = useless[0] if useless else max(members, key=best_first.index)
        return VoterSet(current.version + 1, tuple(m for m in members if m != worst))
    witness = any(m not in egress for m in members)
    if spare and (len(members) < size or useless or (witness and spare[0] in egress)):
        return VoterSet(current.version + 1, tuple(sorted({*members, spare[0]})))
    return None


def paxos_step(
    current: VoterSet,
    ballot: tuple[int, str],
    proposed: Proposal | None,
    answers: Mapping[str, Proposal | None],
    wanted: Callable[[], VoterSet | None],
) -> tuple[VoterSet | None, Proposal | None]:
    """Do one step of the proposer. Return the set that is now decided, and the proposal to send.

    ``answers``: what each voter that granted the proposer's claim under ``current`` has accepted. Without a majority of
    answers nothing is decided. A set that may have been decided for an earlier proposer must be proposed again; only if
    no voter has accepted any is the choice free (``wanted``).
    """
    version = current.version + 1
    if not is_majority(answers, current.members):
        return None, proposed
    if proposed and proposed.ballot == ballot and proposed.voters.version == version:
        agreed = [voter for voter, accepted in answers.items() if accepted == proposed]
        return (proposed.voters, None) if is_majority(agreed, current.members) else (None, proposed)
    accepted_before = [a for voter, a in answers.items() if a and voter in current.members]
    earlier = [a for a in accepted_before if a.voters.version == version]
    choice = max(earlier, key=lambda a: a.ballot).voters if earlier else wanted()
    return None, Proposal(choice, *ballot) if choice else None


class VoterSetState:
    """The voter sets as one node knows them."""

    def __init__(self, me: str, memory: Memory | None, now: int) -> None:
        self.me = me
        self.current = memory.current if memory else VoterSet(0, ())
        self.accepted = memory.accepted if memory else None
        self.published: VoterSet | None = None
        """The voter set on record in the cluster. No message has it and no node votes by it: it only delays a
        bootstrap.
        """
        self.recovering = memory is None
        """True if this node must not vote: it has no memory, so it may have accepted a set that it no longer knows."""
        # The remembered set may be recent, and the set before it is unknown, as after a skipped version.
        self.learned_at = self._skipped_at = min(memory.learned_at, now) if memory else now
        self._started_at = now
        self._superseded: list[tuple[tuple[str, ...], int]] = []
        self._reports: dict[str, tuple[VoterSet, Proposal | None]] = {}
        self._new: set[str] = set()
        """Nodes that, after this node's start, knew of no set either."""
        self._bootstrapping_since: int | None = None

    @property
    def oldest(self) -> int:
        """Return the oldest version under which this voter grants leases.

        A voter that has accepted version v+1 refuses v-1. So once v+1 is decided, no majority of v-1 can be
        had, and a lease time later no lease under v-1 is left that v+1 would not exclude.
        """
        return self.current.version - (self.accepted is None)

    def bootstrap_from(self, members: tuple[str, ...]) -> None:
        """Apply the voters of the inventory, which count as long as no set was agreed."""
        if self.current.version == 0:
            self.current = VoterSet(0, members)

    def merge(self, node: str, voters: VoterSet, accepted: Proposal | None, now: int) -> bool:
        """Note the sets that another node knows. Return True if this node has learned of a newer set."""
        if self.recovering:
            self._reports[node] = (voters, accepted)
            if voters.version == 0 and voters.members == self.current.members:
                self._new.add(node)
        mine = self.current
        # Two sets of one version are possible if inventories differed at the first start: all nodes take the same one.
        newer = voters.version > mine.version or (
            voters.version == mine.version > 0 and voters.members < mine.members
        )
        if newer:
            self.adopt(voters, now)
        return newer

    def adopt(self, voters: VoterSet, now: int) -> None:
        """Follow a decided set."""
        follows = voters.version == self.current.version + 1 and self.current.version > 0
        if follows:
            recent = [(m, at) for m, at in self._superseded if now < at + MAX_LEASE_NS]
            self._superseded = [*recent, (self.current.members, now)]
        else:
            self._skipped_at = now
        self.current = voters
        self.learned_at = now
        if self.accepted and self.accepted.voters.version <= voters.version:
            self.accepted = None

    def finish_recovery(self, inventory: Collection[str], now: int) -> bool:
        """End the wait of a node without memory if enough nodes have reported. Return True if something changed.

        Recovery ends once enough peers have reported that any decided set must be known to one of them: n − majority +
        1 without this node. If all reporters are new and agree on the inventory's set, it becomes version 1. Recovery
        also ends if all nodes of the inventory but one were new after this node's start: only that one node can know of
        a decision, and one node alone is no majority of any set. If the cluster has a set on record, no set is
        bootstrapped before messages have come from a majority of its members: nodes that remember may be in another
        part of a divided network.
        """
        members = self.current.members
        if not self.recovering or not members:
            return False
        others = [m for m in members if m != self.me]
        reported = [m for m in others if m in self._reports and self._same_set(self._reports[m][0])]
        enough = min(len(others), len(members) - (len(members) // 2 + 1) + 1)
        founded = self._bootstrapped(inventory, now)
        if len(reported) < enough and not founded and now < self._started_at + GRACE_NS:
            return False
        if self.current.version == 0 and not self._may_bootstrap():
            return False
        if self.current.version == 0:
            self.adopt(VoterSet(1, members), now)
        known = [accepted for _, accepted in self._reports.values() if accepted]
        open_ones = [a for a in known if a.voters.version == self.current.version + 1]
        self.accepted = max(open_ones, key=lambda a: a.ballot, default=None)
        self.recovering = False
        self._reports.clear()
        self._new.clear()
        return True

    def _may_bootstrap(self) -> bool:
        return self.published is None or is_majority({*self._reports, self.me}, self.published.members)

    def missing_recorded_voters(self, now: int) -> tuple[str, ...]:
        """Return the recorded voters that sent this node no message, if only their silence prevents a bootstrap."""
        waits = self.recovering and self.current.version == 0 and now >= self._started_at + GRACE_NS
        if not waits or self.published is None or self._may_bootstrap():
            return ()
        return tuple(member for member in self.published.members if member not in {*self._reports, self.me})

    def _bootstrapped(self, inventory: Collection[str], now: int) -> bool:
        silent = {*inventory} - self._new - {self.me}
        if not self._new or len(silent) > 1:
            return False
        if self._bootstrapping_since is None:
            self._bootstrapping_since = now
        return now >= self._bootstrapping_since + BOOTSTRAP_NS

    def _same_set(self, voters: VoterSet) -> bool:
        return self.current.version > 0 or voters.members == self.current.members

    def accept(self, proposal: Proposal, version: int, promised: tuple[int, str]) -> None:
        """Accept a proposal if its proposer holds this voter's promise and it follows this voter's version."""
        if (
            proposal.ballot == promised
            and version == self.current.version == proposal.voters.version - 1
            and self.me in self.current.members
            and (self.accepted is None or self.accepted.ballot <= proposal.ballot)
        ):
            self.accepted = proposal

    def superseded(self, lease_ns: int, now: int) -> tuple[tuple[str, ...], ...]:
        """Return the members of each set that was superseded within ``lease_ns``."""
        return tuple(members for members, at in self._superseded if now < at + lease_ns)

    def quorum(self, lease_ns: int, now: int) -> Quorum:
        """Return the voters whose grants make a lease now.

        For one lease time after a change, a majority of the previous set is needed, too: it excludes leases that may
        still be valid under the set before that one. A node that has skipped a version, or has just started, cannot
        know such leases, and waits. ``lease_ns``: the longest lease time in use.
        """
        before = self.superseded(lease_ns, now)
        asked = tuple(sorted({*self.current.members, *(m for members in before for m in members)}))
        barred = self.current.version == 0 or now < self._skipped_at + lease_ns
        sets: tuple[Sequence[str], ...] = () if barred else (self.current.members, *before)
        return Quorum(self.current.version, tuple(tuple(s) for s in sets), asked)
