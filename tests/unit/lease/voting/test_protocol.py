"""Voters and owners, one rule at a time."""

from __future__ import annotations

import pytest

from gateway_agent.lease.voting.protocol import (
    DURATION,
    EPOCH,
    HELD,
    MILLISECOND,
    NEVER,
    RATE_BOUND,
    SILENT,
    Claim,
    Quorum,
    Refusal,
    Release,
    Verdict,
    Voter,
    lease_end,
)

D = 250 * MILLISECOND
ONE = "0000000000000001"
TWO = "0000000000000002"
ABC = Quorum(1, (("a", "b", "c"),), ("a", "b", "c"))


def ask(voter: Voter, node: str, epoch: int, now: int, duration: int = D, identity: str = ONE) -> Verdict:
    return voter.vote(node, 1, [Claim(identity, epoch)], duration, limit_ns=D, now=now)


def granting(node: str = "a", epoch: int = 5, at: int = 0) -> Voter:
    voter = Voter(silent_until=0)
    assert ask(voter, node, epoch, at).granted == (ONE,)
    return voter


@pytest.mark.parametrize(
    ("node", "epoch", "now", "refusal"),
    [
        ("a", 5, D - 1, None),
        ("a", 6, D - 1, None),
        ("a", 4, D - 1, Refusal(ONE, EPOCH, "a", 5)),
        ("b", 6, D - 1, Refusal(ONE, HELD, "a", 5, 1)),
        ("b", 6, D, None),
        ("b", 5, D, Refusal(ONE, EPOCH, "a", 5)),
        ("b", 4, D, Refusal(ONE, EPOCH, "a", 5)),
        ("a", 5, D + 1, None),
    ],
)
def test_a_grant_excludes_others_until_it_ends_and_lower_epochs_for_ever(
    node: str, epoch: int, now: int, refusal: Refusal | None
) -> None:
    verdict = ask(granting("a", 5), node, epoch, now)
    assert verdict == (Verdict((), (refusal,)) if refusal else Verdict((ONE,), ()))


def test_a_refused_claim_changes_nothing() -> None:
    voter = granting("a", 5)
    before = dict(voter.grants)
    ask(voter, "b", 9, 10)
    ask(voter, "a", 4, 10)
    assert voter.grants == before


def test_each_claim_is_judged_for_itself() -> None:
    voter = granting("a", 5)
    verdict = voter.vote("b", 1, [Claim(ONE, 6), Claim(TWO, 1)], D, D, now=1)
    assert verdict.granted == (TWO,)
    assert [refusal.id for refusal in verdict.refused] == [ONE]


def test_a_voter_that_has_just_started_says_until_when_it_is_silent() -> None:
    voter = Voter(silent_until=D)
    assert ask(voter, "a", 1, now=100).refused == (Refusal(ONE, SILENT, remaining_ns=D - 100),)
    assert ask(voter, "a", 1, now=D).granted == (ONE,)


def test_a_lease_longer_than_the_voters_own_is_refused() -> None:
    assert ask(Voter(0), "a", 1, 0, duration=D + 1).refused == (Refusal(ONE, DURATION),)


def test_a_shorter_request_does_not_shorten_what_an_earlier_one_may_have_made() -> None:
    voter = granting("a", 5)
    ask(voter, "a", 5, now=10, duration=D // 5)
    assert ask(voter, "b", 6, now=D - 1).refused[0].why == HELD


@pytest.mark.parametrize(
    ("release", "ends"),
    [
        (Release(ONE, 5, "a", 1, ""), True),
        (Release(ONE, 6, "a", 1, ""), True),
        (Release(ONE, 4, "a", 1, ""), False),
        (Release(ONE, 5, "b", 1, ""), False),
        (Release(ONE, 5, "a", 2, ""), False),
        (Release(TWO, 5, "a", 1, ""), False),
    ],
    ids=["its own", "a later epoch", "an older epoch", "another node", "another incarnation", "another id"],
)
def test_a_release_ends_only_the_grant_it_is_about(release: Release, ends: bool) -> None:
    voter = granting("a", 5)
    voter.release(release, now=10)
    assert (ask(voter, "b", 6, now=11).granted == (ONE,)) is ends


def test_a_release_does_not_bring_back_the_epoch() -> None:
    voter = granting("a", 5)
    voter.release(Release(ONE, 5, "a", 1, ""), now=10)
    assert ask(voter, "b", 5, now=11).refused[0].why == EPOCH


@pytest.mark.parametrize("duration_ms", [50, 100, 250, 600, 5_000, 60_000])
def test_every_grant_outlives_its_lease_whatever_the_clocks_within_the_bound(duration_ms: int) -> None:
    duration = duration_ms * MILLISECOND
    lease_in_true_time = lease_end(0, duration, margin_ns=0) / (1 - RATE_BOUND)
    grant_in_true_time = duration / (1 + RATE_BOUND)
    assert lease_in_true_time < grant_in_true_time


@pytest.mark.parametrize(
    ("moments", "at"),
    [
        ({}, NEVER),
        ({"a": 5}, NEVER),
        ({"a": 5, "b": 9}, 9),
        ({"a": 5, "b": 9, "c": 1}, 5),
        ({"a": 5, "x": 1}, NEVER),
    ],
)
def test_when_a_quorum_can_be_had(moments: dict[str, int], at: int) -> None:
    assert ABC.met_at(moments) == at


def test_a_joint_quorum_needs_a_majority_of_each_set() -> None:
    joint = Quorum(2, (("a", "b", "c", "d"), ("a", "b", "c")), ("a", "b", "c", "d"))
    assert not joint.met({"a", "d", "c"} - {"c"})
    assert not joint.met({"a", "b"})
    assert joint.met({"a", "b", "d"})
    assert not Quorum(0, (), ("a",)).met({"a"})
