"""The messages between lease daemons: their epochs, and what other versions make of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.lease.messages.bodies import (
    Answer,
    Body,
    Handover,
    Heartbeat,
    Hello,
    Holding,
    MasterAnnouncement,
    Subscribe,
    encode,
    epochs_in,
)
from gateway_agent.lease.voting.protocol import Claim, Refusal, Release
from gateway_agent.lease.voting.voter_set import VoterSet

VOTERS = VoterSet(1, ("g1", "g2", "g3"))
EPOCHS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1 << 40)), max_size=6)
Named = list[tuple[str, int]]


def heartbeat(claims: Named = (), releases: Named = (), masters: Named = (), **more: Any) -> Heartbeat:  # type: ignore[assignment]
    return Heartbeat(
        seq=1,
        duration_ns=250_000_000,
        voters=VOTERS,
        accepted=None,
        asked=(),
        claims=tuple(Claim(*each) for each in claims),
        releases=tuple(Release(identity, epoch, "g1", 1, "") for identity, epoch in releases),
        isolated=False,
        reason="",
        unready={},
        masters=tuple(MasterAnnouncement(identity, epoch, 0.0, False, "", 0) for identity, epoch in masters),
        proposal=None,
        **more,
    )


def highest(named: Named) -> dict[str, int]:
    return {identity: max(epoch for each, epoch in named if each == identity) for identity, _ in named}


@given(EPOCHS, EPOCHS, EPOCHS)
def test_a_heartbeat_names_epochs_in_claims_releases_and_announcements(
    claims: Named, releases: Named, masters: Named
) -> None:
    assert epochs_in(heartbeat(claims, releases, masters)) == highest([*claims, *releases, *masters])


@given(EPOCHS)
def test_an_answer_and_a_subscription_name_the_highest_epoch_of_each(named: Named) -> None:
    refused = tuple(Refusal(identity, "epoch", "g2", epoch) for identity, epoch in named)
    assert epochs_in(Answer(1, VOTERS, None, ("granted",), refused)) == highest(named)
    known = tuple((identity, epoch, "g1") for identity, epoch in named)
    assert epochs_in(Subscribe(VOTERS, None, known)) == highest(named)


@pytest.mark.parametrize("body", [Hello(), Holding(("a",)), Handover("a", "g2")])
def test_other_messages_name_no_epoch(body: Body) -> None:
    assert epochs_in(body) == {}


@pytest.mark.parametrize(
    "body",
    [
        Hello(),
        Subscribe(VOTERS, None, (("a", 7, "g1"),), carries=("a",)),
        heartbeat([("a", 8)], [("b", 2)], [("c", 3)], warming=("a",), known=("a", "b")),
        Answer(1, VOTERS, None, ("a",), (Refusal("b", "held", "g2", 4),)),
        Holding(("a", "b")),
        Handover("a", "g2"),
    ],
    ids=lambda body: type(body).__name__,
)
def test_a_newer_version_may_add_fields_at_the_end(body: Body) -> None:
    fields = [*msgspec.msgpack.decode(encode(body)), "a field of a newer version"]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=Body) == body


def test_an_older_version_may_lack_the_fields_that_were_added() -> None:
    full = heartbeat([("a", 8)], warming=("a",), known=("a",))
    fields = msgspec.msgpack.decode(encode(full))
    older = fields[: fields.index(["a"], 9)]
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(older), type=Body)
    assert decoded == heartbeat([("a", 8)])


def test_the_request_of_a_heartbeat_has_its_number_and_claims() -> None:
    request = heartbeat([("a", 8)]).vote_request
    assert (request.seq, request.duration_ns, request.claims) == (1, 250_000_000, (Claim("a", 8),))
    assert (request.voters, request.proposal) == (VOTERS, None)
