"""Leases of a fraction of a second: voters grant them, owners count the grants.

Times are nanoseconds on the node's own ``CLOCK_BOOTTIME``. No clock is compared with another: a grant ends
``duration`` after its *receipt* on the voter's clock, the lease made of such grants ends sooner, counted from
the *sending* of the request on the owner's clock. So every grant outlives the lease that it made, and two
owners would need two majorities without a common voter (Gray and Cheriton, "Leases", SOSP 1989).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
from msgspec import field

from ..limits import Duration, Epoch, Identity, Incarnation, Milliseconds, Name, Text

MILLISECOND = 1_000_000
SECOND = 1_000_000_000
RATE_BOUND = 0.01
"""Largest relative error of a clock's rate. Two clocks can differ by twice that."""
MARGIN_NS = 8 * MILLISECOND
"""Two timer ticks of a kernel with HZ=250: the largest delay with which an expiry is noticed."""
TICKET_PART = 4
"""Fraction (1/4) of a lease for which a ticket is valid: see :func:`ticket_ns`."""
NEVER = 1 << 62
"""A moment that is never reached."""


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """The claim of a node to become, or to remain, master of one egress IP."""

    id: Identity
    epoch: Epoch


class Release(msgspec.Struct, frozen=True, array_like=True):
    """The release of a lease or a claim of ``node``, whose ``incarnation`` never uses this epoch again."""

    id: Identity
    epoch: Epoch
    node: Name
    incarnation: Incarnation
    """Incarnation of the node. After a restart the node may use the epoch again."""
    reason: Text
    target: Name = ""
    """Name of the node that is to request the lease first; empty: the next node in the order of preference."""
    shared: bool = False
    """True if the egress IP had no master a moment ago and moves for an even spread: then it may move once more."""
    unserved_ms: Milliseconds = 0
    """Milliseconds before this release in which possibly no packet left by the egress IP."""


HELD = "held"
EPOCH = "epoch"
SILENT = "silent"
DURATION = "duration"
VOTERS = "voters"


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """The refusal of a claim. ``remaining_ns``: the time after which a new request can succeed; 0: at once."""

    id: Identity
    why: Name
    """``held``: another node holds the lease. ``epoch``: a higher epoch was granted. ``silent``: the voter has just
    started. ``duration``: the lease time is longer than the voter's own. ``voters``: the voter set is out of date.
    """
    holder: Name = ""
    epoch: Epoch = 0
    """The highest epoch granted."""
    remaining_ns: Duration = 0


class Verdict(msgspec.Struct, frozen=True):
    """A voter's answer to the claims of one request."""

    granted: tuple[str, ...]
    refused: tuple[Refusal, ...]


def lease_end(sent_at: int, duration_ns: int, margin_ns: int = MARGIN_NS) -> int:
    """Return the moment at which a lease ends on the owner's clock."""
    return sent_at + int(duration_ns * (1 - 2 * RATE_BOUND)) - margin_ns


def ticket_ns(duration_ns: int) -> int:
    """Return for how long the ticket of a request is valid: the grants must open the fence within that time."""
    return duration_ns // TICKET_PART


def is_majority(voters: Collection[str], members: Sequence[str]) -> bool:
    """Return True if more than half of ``members`` are among ``voters``."""
    return sum(member in voters for member in members) * 2 > len(members)


class Quorum(msgspec.Struct, frozen=True):
    """The voters whose grants make a lease: a majority of each of ``sets``. Without any set, no grants make a lease."""

    version: int
    sets: tuple[tuple[str, ...], ...]
    asked: tuple[str, ...]
    """Nodes that must answer."""
    without_quorum: bool = False
    """True if the voters are only those members of the voter set that still answer."""

    def reached_by(self, voters: Collection[str]) -> bool:
        """Return True if the grants of these voters make a lease."""
        return bool(self.sets) and all(is_majority(voters, members) for members in self.sets)

    def met_at(self, moments: dict[str, int]) -> int:
        """Return the moment at which a quorum is possible. ``moments``: when each voter would grant."""
        if not self.sets:
            return NEVER
        return max(
            sorted(moments.get(member, NEVER) for member in members)[len(members) // 2]
            for members in self.sets
        )


class Request(msgspec.Struct):
    """One request, which its sender remembers until the answers have come."""

    seq: int
    sent_at: int
    duration_ns: int
    claims: dict[str, int]
    quorum: Quorum
    granted: dict[str, set[str]] = field(default_factory=dict)
    """Voters that have granted it, by egress id."""
    moments: dict[str, dict[str, int]] = field(default_factory=dict)
    """The moment at which each voter that answered would grant, by egress id and voter."""
    granted_all: dict[str, int] = field(default_factory=dict)
    """The moment at which each voter granted every claim. These voters are not in the two fields above."""
    settled: bool = False
    """True if a majority has granted every claim, and the leases are what that makes them."""

    def moments_of(self, identity: str) -> dict[str, int]:
        """Return the moment at which each voter that answered would grant an egress IP."""
        # A voter that refused first has deferred all claims, and granted them later.
        return {**self.moments.get(identity, {}), **self.granted_all}


class LeaseState(msgspec.Struct):
    """A node's request for, and later lease of, one egress IP."""

    epoch: int
    """The epoch that is claimed."""
    first_seq: int
    """Number of the first request for this lease: answers to earlier requests are about an earlier lease."""
    asked_at: int
    retry_at: int = 0
    """The moment before which a request is useless, by the voters' answers."""
    until: int = 0
    """End of the lease; 0: none yet."""
    held_epoch: int = 0
    """The highest epoch that a majority granted, which may be announced."""
    without_quorum: bool = False
    granted_seq: int = 0
    """Number of the request whose grants made or last renewed the lease."""
    duration_ns: int = 0
    """The lease time that this request asked for."""

    def holds(self, now: int) -> bool:
        """Return True if the lease has not ended."""
        return self.until > now
