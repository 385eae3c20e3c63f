"""Grants of a voter, one rule at a time."""

from __future__ import annotations

import pytest

from gateway_agent.lease.voting.protocol import (
    DURATION,
    EPOCH,
    HELD,
    MILLISECOND,
    SILENT,
    Claim,
    Refusal,
    Release,
    Verdict,
)
from gateway_agent.lease.voting.voter import Voter

D = 250 * MILLISECOND
ONE = "0000000000000001"
TWO = "0000000000000002"
BOTH = (Claim(ONE, 5), Claim(TWO, 5))


def ask(voter: Voter, node: str, epoch: int, now: int, duration: int = D, identity: str = ONE) -> Verdict:
    return voter.vote(node, 1, (Claim(identity, epoch),), duration, limit_ns=D, now=now)


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
    verdict = voter.vote("b", 1, (Claim(ONE, 6), Claim(TWO, 1)), D, D, now=1)
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


def renewing(at: int) -> Voter:
    """Return a voter from which a node has asked for the same two grants three times, the last time at ``at``."""
    voter = Voter(silent_until=0)
    for now in (0, at // 2, at):
        assert voter.vote("a", 1, BOTH, D, D, now) == Verdict((ONE, TWO), ())
    return voter


def test_a_request_that_repeats_its_claims_prolongs_each_grant() -> None:
    voter = renewing(D // 2)
    assert voter.granted_until == D + D // 2
    for identity in (ONE, TWO):
        assert ask(voter, "b", 6, D + D // 2 - 1, identity=identity).refused[0].remaining_ns == 1
        assert ask(voter, "b", 6, D + D // 2, identity=identity).granted == (identity,)


def test_a_shorter_request_that_repeats_its_claims_shortens_no_grant() -> None:
    voter = renewing(D // 2)
    assert voter.vote("a", 1, BOTH, D // 10, D, D // 2 + 1).granted == (ONE, TWO)
    assert ask(voter, "b", 6, D + D // 2 - 1).refused[0].why == HELD
    assert voter.granted_until == D + D // 2


def test_a_released_grant_is_not_prolonged_with_the_others() -> None:
    voter = renewing(10)
    voter.release(Release(ONE, 5, "a", 1, ""), now=11)
    assert ask(voter, "b", 6, 12).granted == (ONE,)
    verdict = voter.vote("a", 1, BOTH, D, D, 13)
    assert verdict.granted == (TWO,)
    assert verdict.refused == (Refusal(ONE, HELD, "b", 6, D - 1),)
    assert ask(voter, "b", 6, 12 + D - 1).granted == (ONE,), "what b holds is b's"


def test_a_repeated_request_is_refused_as_any_other() -> None:
    voter = renewing(10)
    assert [refusal.why for refusal in voter.vote("a", 1, BOTH, D + 1, D, 11).refused] == [DURATION] * 2
    voter.silent_until = D
    assert [refusal.why for refusal in voter.vote("a", 1, BOTH, D, D, 11).refused] == [SILENT] * 2


def test_the_grants_of_another_incarnation_are_its_own() -> None:
    voter = renewing(10)
    assert voter.vote("a", 2, BOTH, D, D, 11).granted == (ONE, TWO)
    voter.release(Release(ONE, 5, "a", 1, ""), now=12)
    assert ask(voter, "b", 6, 13).refused[0].why == HELD


def test_grants_that_are_forgotten_are_judged_anew() -> None:
    voter, later = renewing(10), 3600 * 10**9
    voter.forget((), later)
    assert voter.grants == {}
    assert voter.vote("a", 1, BOTH, D, D, later).granted == (ONE, TWO)
    assert ask(voter, "b", 6, later + D - 1).refused[0].why == HELD
