"""The messages between lease daemons, without their envelope (:mod:`.wire`).

They are MessagePack arrays: new fields are added at the end, and older versions pass over them.
"""

from __future__ import annotations

import msgspec

from ..ipc import Facts
from ..limits import Carried, Duration, Epoch, Identity, Milliseconds, Name, Seconds, Text
from ..limits import Counter as Number
from ..voting.protocol import Claim, Refusal, Release
from ..voting.voter_node import VoteRequest
from ..voting.voter_set import Proposal, VoterSet


class MasterAnnouncement(msgspec.Struct, frozen=True, array_like=True):
    """A master's announcement of one egress IP that it holds."""

    id: Identity
    epoch: Epoch
    since: Seconds
    """Start of this mastership by the wall clock, seconds."""
    without_quorum: bool
    reason: Text
    """The reason why this master took over."""
    silent_ms: Milliseconds
    """Time without a message of the master before."""
    shown: Name = ""
    """The address that the outside sees."""
    leaving: bool = False
    """True if this master hands over: packets are to be queued until the next master announces itself."""
    planned: bool = False
    """The master before has handed over to a node of its choice."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="o"):
    """Carry nothing beside the envelope: the sender's identity, and whose messages it receives."""


class Subscribe(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """Subscribe to new masters. ``known``: (id, epoch, master). Answered by a :class:`Heartbeat`."""

    voters: VoterSet
    accepted: Proposal | None
    known: tuple[tuple[Identity, Epoch, Name], ...]
    facts: Facts | None = None
    """The sender's settings. Fields at the end of a message are unknown to older versions, which pass over them."""
    carries: Carried | None = None
    """Ids by which pods of the sender go; None: not known."""


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, tag="h"):
    """All that an egress node says of itself, and its request for leases."""

    seq: Number
    """Names the request in the answers; 0: none is wanted."""
    duration_ns: Duration
    voters: VoterSet
    accepted: Proposal | None
    asked: tuple[Name, ...]
    """The nodes that are to answer."""
    claims: tuple[Claim, ...]
    releases: tuple[Release, ...]
    """The sender's own, and those it passes on."""
    isolated: bool
    reason: Text
    unready: dict[Identity, Text]
    masters: tuple[MasterAnnouncement, ...]
    proposal: Proposal | None
    warming: tuple[Identity, ...] = ()
    known: tuple[Identity, ...] | None = None
    facts: Facts | None = None
    """Settings of the sender; None: left out, as everywhere but in the answer to a :class:`Subscribe`."""

    @property
    def vote_request(self) -> VoteRequest:
        """Return what the heartbeat asks of a voter."""
        return VoteRequest(self.seq, self.duration_ns, self.voters, self.claims, self.proposal)


class Answer(msgspec.Struct, frozen=True, array_like=True, tag="a"):
    """A voter's verdict on one request."""

    seq: Number
    voters: VoterSet
    accepted: Proposal | None
    granted: tuple[Identity, ...]
    refused: tuple[Refusal, ...]


class Holding(msgspec.Struct, frozen=True, array_like=True, tag="w"):
    """The sender holds back its packets for these egress IPs, whose master hands over."""

    ids: tuple[Identity, ...]


class Handover(msgspec.Struct, frozen=True, array_like=True, tag="m"):
    """An operator wants the receiver, who is master, to hand over."""

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
