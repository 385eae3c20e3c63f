"""A voter that is asked a little early answers when it can grant."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway_agent.lease.voting.protocol import HELD, MILLISECOND, NEVER, SILENT, Claim, Release
from gateway_agent.lease.voting.voter_node import DEFERRAL_NS, VoteRequest, VoterNode
from gateway_agent.lease.voting.voter_set import Memory, VoterSet, VoterSetState

LEASE = 250 * MILLISECOND
VOTERS = VoterSet(1, ("a", "b", "c"))
HELD_UNTIL = 3 * LEASE


def holding() -> VoterNode:
    """Return a voter that has granted ``x`` and ``y`` to ``a`` until :data:`HELD_UNTIL`."""
    voter_node = VoterNode(
        VoterSetState("b", Memory(VOTERS, None, (0, ""), LEASE, LEASE, 0), now=0), None, LEASE, now=0
    )
    assert voter_node.vote(
        "a", 1, asking(Claim("x", 1), Claim("y", 1)), LEASE, HELD_UNTIL - LEASE
    ).granted == (
        "x",
        "y",
    )
    return voter_node


def asking(*claims: Claim) -> VoteRequest:
    return VoteRequest(1, LEASE, VOTERS, claims, None)


def judged(voter_node: VoterNode, now: int) -> list[tuple[str, tuple[str, ...]]]:
    """Return the deferred grants of the voter: (requester, egress ids)."""
    return [
        (
            pending.sender,
            voter_node.vote(pending.sender, pending.incarnation, pending.request, LEASE, now).granted,
        )
        for pending in voter_node.due(now)
    ]


@pytest.mark.parametrize(("early", "kept"), [(1, True), (DEFERRAL_NS, True), (DEFERRAL_NS + 1, False)])
def test_a_request_that_comes_a_little_early_is_judged_again_when_the_grant_has_ended(
    early: int, kept: bool
) -> None:
    voter_node = holding()
    now = HELD_UNTIL - early
    assert {
        r.why for r in voter_node.vote("c", 1, asking(Claim("x", 2), Claim("free", 1)), LEASE, now).refused
    } == {HELD}
    assert voter_node.next_due() == (HELD_UNTIL if kept else NEVER)
    assert judged(voter_node, HELD_UNTIL - 1) == []
    assert judged(voter_node, HELD_UNTIL) == ([("c", ("x",))] if kept else [])
    assert voter_node.next_due() == NEVER


def test_who_renews_in_time_keeps_it() -> None:
    voter_node = holding()
    voter_node.vote("c", 1, asking(Claim("x", 2)), LEASE, HELD_UNTIL - 2)
    voter_node.vote("a", 1, asking(Claim("x", 1)), LEASE, HELD_UNTIL - 1)
    assert judged(voter_node, HELD_UNTIL) == [("c", ())]


@pytest.mark.parametrize(
    ("newer", "granted"),
    [
        (lambda voter_node: voter_node.release(Release("x", 2, "c", 1, "gives way"), HELD_UNTIL - 1), ("y",)),
        (lambda voter_node: voter_node.release(Release("x", 2, "c", 7, "gives way"), HELD_UNTIL - 1), ()),
        (lambda voter_node: voter_node.vote("c", 1, asking(), LEASE, HELD_UNTIL - 1), ("x", "y")),
        (lambda voter_node: voter_node.vote("c", 7, asking(), LEASE, HELD_UNTIL - 1), ()),
    ],
    ids=["gave way", "gave way after a restart", "heartbeat", "restarted"],
)
def test_what_its_sender_has_said_since_counts(
    newer: Callable[[VoterNode], object], granted: tuple[str, ...]
) -> None:
    voter_node = holding()
    voter_node.vote("c", 1, asking(Claim("x", 2), Claim("y", 2)), LEASE, HELD_UNTIL - 2)
    newer(voter_node)
    assert judged(voter_node, HELD_UNTIL) == ([("c", granted)] if granted else [])


def test_a_newer_request_takes_the_place_of_the_older() -> None:
    voter_node = holding()
    voter_node.vote("c", 1, asking(Claim("x", 2)), LEASE, HELD_UNTIL - 2)
    voter_node.vote("c", 1, asking(Claim("x", 3))._replace(seq=2), LEASE, HELD_UNTIL - 1)
    [pending] = voter_node.due(HELD_UNTIL)
    assert (pending.request.seq, pending.request.claims) == (2, (Claim("x", 3),))


def test_a_voter_that_is_still_learning_keeps_nothing() -> None:
    short = 16 * MILLISECOND
    voter_node = VoterNode(VoterSetState("b", None, now=0), None, short, now=0)
    [refusal] = voter_node.vote("c", 1, asking(Claim("x", 1)), short, short).refused
    assert (refusal.why, 0 < refusal.remaining_ns <= DEFERRAL_NS) == (SILENT, True)
    assert voter_node.next_due() == NEVER
