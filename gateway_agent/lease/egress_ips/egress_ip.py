"""The life of one egress IP on one node: one record with a phase, and one table of the transitions between phases.

Theory of operation
-------------------
A node is idle as long as another node is master, or as long as it cannot serve the egress IP itself. With no master it
becomes a candidate and waits for its rank, or until the pause after a failed election is over. Then it requests the
lease with each heartbeat until a majority of the voters has granted one request: the node owns the egress IP. From
there on each heartbeat renews the lease. A planned handover keeps renewing it while the workers' kernels queue packets.
Every other end of a lease leads back to idle.

:meth:`EgressIPs.transition` alone changes a phase, in one assignment: an error between two lines leaves no record with
half a phase. An event that :data:`TRANSITIONS` does not list for the present phase raises
:class:`IllegalTransition`. ``python -m tests.tools.lease_diagram`` draws the table.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from enum import Enum

from ..limits import FORGET_NS, MAX_IDS
from ..messages.bodies import MasterAnnouncement
from ..voting.protocol import LeaseState, Release
from .master_entry import MasterEntry


class Phase(Enum):
    """The part of this node in the life of an egress IP."""

    # The hash of Enum is written in Python: too slow for a look-up in each message.
    __hash__ = object.__hash__
    IDLE = "idle"
    """Another node is master, or this one cannot serve it."""
    WAITING = "waiting"
    """No node is master. This node is a candidate whose turn has not come, or that pauses after a failure."""
    REQUESTING = "requesting"
    """Each heartbeat requests the lease. Single voters may have granted it."""
    OWNING = "owning"
    """A majority has granted the lease: this node is master."""
    HANDING_OVER = "handing over"
    """This node stays master until the workers' kernels queue their packets for the next master."""


class Event(Enum):
    """The reason for the end of a phase. The value is the label in the diagram."""

    MASTERLESS = "no node is master, this one is a candidate"
    ASK = "its turn has come"
    GRANT = "a majority grants one request"
    DEFER = "another candidate was first"
    TIME_OUT = "no majority answers for a lease time"
    FOLLOW = "another node is master"
    UNABLE = "this node cannot serve it"
    HAND_OVER = "another node is to have it"
    RELEASE = "given up, or handed over"
    EXPIRE = "the lease ends without renewal"


TRANSITIONS: dict[Phase, dict[Event, Phase]] = {
    Phase.IDLE: {
        Event.MASTERLESS: Phase.WAITING,
    },
    Phase.WAITING: {
        Event.ASK: Phase.REQUESTING,
        Event.FOLLOW: Phase.IDLE,
        Event.UNABLE: Phase.IDLE,
    },
    Phase.REQUESTING: {
        Event.GRANT: Phase.OWNING,
        Event.DEFER: Phase.WAITING,
        Event.TIME_OUT: Phase.WAITING,
        Event.FOLLOW: Phase.IDLE,
        Event.UNABLE: Phase.IDLE,
    },
    Phase.OWNING: {
        Event.HAND_OVER: Phase.HANDING_OVER,
        Event.RELEASE: Phase.IDLE,
        Event.EXPIRE: Phase.IDLE,
    },
    Phase.HANDING_OVER: {
        Event.RELEASE: Phase.IDLE,
        Event.EXPIRE: Phase.IDLE,
    },
}
CANDIDATE = (Phase.WAITING, Phase.REQUESTING)
MASTER = (Phase.OWNING, Phase.HANDING_OVER)
LEASED = (Phase.REQUESTING, *MASTER)
"""Phases with a :class:`LeaseState`: a requested or granted lease."""


class IllegalTransition(Exception):
    """An event does not belong to the phase of an egress IP."""


@dataclass
class Wait:
    """The rank of a candidate, and its pauses. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    since: int
    """The moment since which this node knows no master."""
    not_before: int = 0
    alone_before: int = 0
    """The value in place of ``not_before`` if no other node can serve: a long pause would not help."""
    tries: int = 0
    """Number of times that another candidate was first."""
    answered_at: int = 0
    """The moment of the voters' last answer that named the time of the next useful request."""
    rank: int = 0
    alone: bool = False
    """True if no other node can serve the egress IP."""


@dataclass
class HandoverState:
    """A planned handover. The node renews the lease until the handover ends."""

    target: str
    """The node that is to request the lease first; empty: no node can."""
    reason: str
    deadline: int
    awaited: set[str]
    """Nodes that have not confirmed yet that their kernels queue packets."""
    shared: bool = False
    """See :attr:`gateway_agent.lease.voting.protocol.Release.shared`."""


@dataclass(frozen=True)
class Taken:
    """A takeover that may still move for an even spread: see :mod:`gateway_agent.lease.placement.masterless`."""

    masterless_since: int
    at: int
    master: str


@dataclass(frozen=True)
class State:
    """A phase with the data that only this phase has."""

    phase: Phase = Phase.IDLE
    lease: LeaseState | None = None
    handover: HandoverState | None = None


@dataclass
class EgressIP:
    """The knowledge of one node about one egress IP."""

    id: str
    state: State = field(default_factory=State)
    used_epoch: int = 0
    """The highest epoch that this node has claimed."""
    announced: MasterAnnouncement | None = None
    """The announcement of this node as the master."""
    wait: Wait | None = None
    """State of the wait for a lease; None: the egress IP has a master, as far as this node knows."""
    failures: tuple[int, int] = (0, 0)
    """Number of consecutive failed elections, and the moment at which the pause after the last one ends."""
    last_release: Release | None = None
    ready_since: int | None = None
    """The moment at which this node became able to serve the egress IP; None: it is not able."""
    handed_over_epoch: int | None = None
    """The epoch of the release that was made because this node stops."""
    followed: MasterEntry | None = None
    """The master, as its announcements say."""
    highest_epoch: int | None = None
    """The highest epoch received; None: none yet."""
    masterless_since: int | None = None
    last_master: str = ""
    taken: Taken | None = None
    move: tuple[str, int] | None = None
    """The node that an operator has requested as master, and the end of this request."""
    preferred: tuple[str, int] | None = None
    """The preferred node, and since when it is the same."""
    target: tuple[str, int] | None = None
    """The node to which the last master has handed over, and until when that counts."""
    shared: bool = False
    """True if the handover to ``target`` was made for an even spread."""
    margins: deque[int] = field(default_factory=lambda: deque(maxlen=20))
    """Nanoseconds that were left of the lease at its last renewals."""
    unused_since: int | None = None
    """The moment since which nothing has used this record."""

    @property
    def phase(self) -> Phase:
        """Return the present phase."""
        return self.state.phase

    @property
    def lease(self) -> LeaseState | None:
        """Return the lease that is held or requested."""
        return self.state.lease

    def holds(self, now: int) -> bool:
        """Return True if this node is master, that is, if its lease has not ended."""
        return self.state.lease is not None and self.state.lease.holds(now)


class EgressIPs:
    """The records of one node, by egress id."""

    def __init__(self) -> None:
        self.version = 0
        """Grows before anything changes but the ends of leases: what is worked out from the rest is kept until then."""
        self._by_id: dict[str, EgressIP] = {}
        self._in_phase: dict[Phase, dict[str, EgressIP]] = {
            phase: {} for phase in Phase if phase is not Phase.IDLE
        }
        """An index of ids by phase. After an error it may have too many entries, but never too few."""

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[EgressIP]:
        return iter(self._by_id.values())

    def find(self, identity: str) -> EgressIP | None:
        """Return the record; None if there is none."""
        return self._by_id.get(identity)

    def record(self, identity: str) -> EgressIP:
        """Return the record; create it if there is none. For ids in this node's own configuration."""
        if identity not in self._by_id:
            self._by_id[identity] = EgressIP(identity)
        return self._by_id[identity]

    def admit(self, identity: str) -> EgressIP | None:
        """Return the record; create it if there is room. For ids that other nodes name. None: they name too many."""
        if identity not in self._by_id and len(self._by_id) >= MAX_IDS:
            return None
        return self.record(identity)

    def lease(self, identity: str) -> LeaseState | None:
        """Return the lease that is held or requested."""
        record = self._by_id.get(identity)
        return record.state.lease if record else None

    def holds(self, identity: str, now: int) -> bool:
        """Return True if this node is master."""
        record = self._by_id.get(identity)
        return record is not None and record.holds(now)

    def in_phase(self, *phases: Phase) -> list[EgressIP]:
        """Return the records in one of these phases, :attr:`Phase.IDLE` not among them."""
        return [
            each for phase in phases for each in self._in_phase[phase].values() if each.state.phase is phase
        ]

    def handing_over(self) -> bool:
        """Return True if the handover of any egress IP is in progress."""
        phase = Phase.HANDING_OVER
        return any(record.phase is phase for record in self._in_phase[phase].values())

    def transition(
        self,
        identity: str,
        event: Event,
        lease: LeaseState | None = None,
        handover: HandoverState | None = None,
    ) -> EgressIP:
        """Change the phase as :data:`TRANSITIONS` says. Raises :class:`IllegalTransition`.

        ``lease``: the new lease; None: unchanged, in phases that have one.
        """
        record = self.record(identity)
        before = record.phase
        after = TRANSITIONS[before].get(event)
        if after is None:
            raise IllegalTransition(f"{identity} is {before.value}: {event.name} does not belong there")
        self.version += 1
        if after is not Phase.IDLE:
            self._in_phase[after][identity] = record
        record.state = State(
            after,
            (lease or record.lease) if after in LEASED else None,
            handover if after is Phase.HANDING_OVER else None,
        )
        if after not in MASTER:
            record.announced = None
        if before is not Phase.IDLE:
            self._in_phase[before].pop(identity, None)
        return record

    def prune(self, configured: Collection[str], now: int) -> None:
        """Forget the records that nothing has used for :data:`FORGET_NS`.

        A record is used if it is ``configured``, not idle, has a master, or another node names it. Others are kept for
        a while: a release under way ends grants up to its epoch, so no epoch may be used again before it has arrived.
        """
        for identity, record in list(self._by_id.items()):
            followed = record.followed is not None and record.followed.master != ""
            if identity in configured or followed or record.phase is not Phase.IDLE:
                record.unused_since = None
            elif record.unused_since is None:
                record.unused_since = now
            elif now >= record.unused_since + FORGET_NS:
                self.version += 1
                del self._by_id[identity]
