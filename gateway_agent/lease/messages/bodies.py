"""The messages between lease daemons, without their envelope (:mod:`.wire`).

The messages are MessagePack arrays: new fields are added at the end, and older versions ignore them.
"""

from __future__ import annotations

import msgspec

from ..ipc import Facts
from ..limits import Carried, Duration, Epoch, Identity, Milliseconds, Name, Seconds, Text
from ..limits import Counter as Number
from ..voting.protocol import Claim, Refusal, Release
from ..voting.voter_node import VoteRequest
from ..voting.voter_set import Proposal, VoterSet

FIRST_MASTER = "first master"
"""The beginning of the reason of a master that knows of none before it."""


class MasterAnnouncement(msgspec.Struct, frozen=True, array_like=True):
    """A master's announcement of one egress IP."""

    id: Identity
    epoch: Epoch
    since: Seconds
    """Wall clock, seconds, when this node became master."""
    without_quorum: bool
    reason: Text
    """The reason why this master took over."""
    silent_ms: Milliseconds
    """Milliseconds in which no packet left by the egress IP before the takeover."""
    shown: Name = ""
    """The address that the outside sees."""
    leaving: bool = False
    """True if this master hands over: workers queue packets until the next master announces itself."""
    planned: bool = False
    """True if the previous master has handed over to a node of its choice."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="o"):
    """An envelope alone: the sender's identity, and the incarnation that the sender last received."""


class Subscribe(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """A subscription to new masters. ``known``: (id, epoch, master). A :class:`Heartbeat` answers it."""

    voters: VoterSet
    accepted: Proposal | None
    known: tuple[tuple[Identity, Epoch, Name], ...]
    facts: Facts | None = None
    """The sender's settings."""
    carries: Carried | None = None
    """Ids of the egress IPs that pods of the sender use; None: not known."""


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, tag="h"):
    """The state of an egress node, and its request for leases."""

    seq: Number
    """Number of the request, repeated in the answers; 0: this heartbeat is no request."""
    duration_ns: Duration
    voters: VoterSet
    accepted: Proposal | None
    asked: tuple[Name, ...]
    """The nodes that must answer."""
    claims: tuple[Claim, ...]
    releases: tuple[Release, ...]
    """Releases of the sender, and releases of others that the sender passes on."""
    isolated: bool
    reason: Text
    unready: dict[Identity, Text]
    masters: tuple[MasterAnnouncement, ...]
    proposal: Proposal | None
    warming: tuple[Identity, ...] = ()
    known: tuple[Identity, ...] | None = None
    facts: Facts | None = None
    """Settings of the sender; None except in the answer to a :class:`Subscribe`."""

    @property
    def vote_request(self) -> VoteRequest:
        """Return the request that the heartbeat makes to a voter."""
        return VoteRequest(self.seq, self.duration_ns, self.voters, self.claims, self.proposal)


class Answer(msgspec.Struct, frozen=True, array_like=True, tag="a"):
    """A voter's verdict on one request."""

    seq: Number
    voters: VoterSet
    accepted: Proposal | None
    granted: tuple[Identity, ...]
    refused: tuple[Refusal, ...]


class Holding(msgspec.Struct, frozen=True, array_like=True, tag="w"):
    """The statement that the sender queues its packets for these egress IPs, whose master hands over."""

    ids: tuple[Identity, ...]


class Handover(msgspec.Struct, frozen=True, array_like=True, tag="m"):
    """An operator's request that the receiver, the master, hand over to the node ``to``."""

    id: Identity
    to: Name


Body = Hello | Subscribe | Heartbeat | Answer | Holding | Handover


def epochs_in(body: Body) -> dict[str, int]:
    """Return the highest epoch that a message names, by the id of its egress IP."""
    found: dict[str, int] = {}
    named: list[tuple[str, int]] = []
    if isinstance(body, Heartbeat):
        named = [(claim.id, claim.epoch) for claim in body.claims]
        named += [(release.id, release.epoch) for release in body.releases]
        named += [(announcement.id, announcement.epoch) for announcement in body.masters]
    elif isinstance(body, Answer):
        named = [(refusal.id, refusal.epoch) for refusal in body.refused]
    elif isinstance(body, Subscribe):
        named = [(identity, epoch) for identity, epoch, _ in body.known]
    for identity, epoch in named:
        found[identity] = max(epoch, found.get(identity, 0))
    return found


def encode(body: Body) -> msgspec.Raw:
    """Encode the body of a message once for all receivers."""
    return msgspec.Raw(_encoder.encode(body))


_encoder = msgspec.msgpack.Encoder()
