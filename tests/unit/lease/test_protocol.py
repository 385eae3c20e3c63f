"""Voters and owners, one rule at a time."""

from __future__ import annotations

import pytest

from gateway_agent.lease.mastership.egress_ip import EgressIPs, Event
from gateway_agent.lease.mastership.owner import Owner
from gateway_agent.lease.voting.protocol import (
    DURATION,
    EPOCH,
    HELD,
    MARGIN_NS,
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
    ticket_ns,
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


class Candidate(Owner):
    """A node that stands for :data:`ONE`."""

    def __init__(self) -> None:
        self.egress_ips = EgressIPs()
        super().__init__(self.egress_ips)
        self.egress_ips.transition(ONE, Event.MASTERLESS)


def holding(now: int = 0) -> Owner:
    owner = Candidate()
    owner.ask(ONE, 1, now)
    request = owner.request(ABC, D, now)
    for voter in ("a", "b"):
        owner.count(voter, request.seq, Verdict((ONE,), ()), now)
    return owner


def test_a_majority_of_grants_to_one_request_makes_a_lease_counted_from_its_sending() -> None:
    owner = Candidate()
    owner.ask(ONE, 7, now=0)
    request = owner.request(ABC, D, now=1000)
    assert request.claims == {ONE: 7}
    owner.count("a", request.seq, Verdict((ONE,), ()), now=2000)
    assert owner.held(2000) == {}
    owner.count("c", request.seq, Verdict((ONE,), ()), now=3000)
    end = 1000 + int(D * (1 - 2 * RATE_BOUND)) - MARGIN_NS
    assert owner.held(3000)[ONE].until == end == owner.next_end()
    assert owner.held(end) == {}
    assert owner.lost(end) == (ONE,)


def test_grants_to_two_requests_make_no_lease() -> None:
    owner = Candidate()
    owner.ask(ONE, 1, 0)
    first, second = owner.request(ABC, D, 0), owner.request(ABC, D, 1)
    owner.count("a", first.seq, Verdict((ONE,), ()), 2)
    owner.count("b", second.seq, Verdict((ONE,), ()), 2)
    assert owner.held(2) == {}


@pytest.mark.parametrize("voters", [("a",), ("a", "a"), ("a", "x", "y")])
def test_no_majority_no_lease(voters: tuple[str, ...]) -> None:
    owner = Candidate()
    owner.ask(ONE, 1, 0)
    request = owner.request(ABC, D, 0)
    for voter in voters:
        owner.count(voter, request.seq, Verdict((ONE,), ()), 1)
    assert owner.held(1) == {}


def test_answers_to_an_earlier_tenure_do_not_count() -> None:
    owner = Candidate()
    owner.ask(ONE, 1, 0)
    request = owner.request(ABC, D, 0)
    owner.drop(ONE, Event.DEFER)
    owner.ask(ONE, 2, 1)
    for voter in ("a", "b", "c"):
        owner.count(voter, request.seq, Verdict((ONE,), ()), 2)
    assert owner.held(2) == {}


def test_an_answer_that_comes_after_the_lease_would_have_ended_is_ignored() -> None:
    owner = Candidate()
    owner.ask(ONE, 1, 0)
    request = owner.request(ABC, D, 0)
    for voter in ("a", "b", "c"):
        owner.count(voter, request.seq, Verdict((ONE,), ()), D)
    assert owner.held(D) == {}


@pytest.mark.parametrize("fenced", [True, False])
@pytest.mark.parametrize("late", [0, 1])
def test_where_a_fence_is_to_be_opened_an_answer_counts_as_long_as_the_ticket_lies(
    fenced: bool, late: int
) -> None:
    """Else the address would be announced, and the kernel would let nothing out by it."""
    owner = Candidate()
    owner.fenced = frozenset({ONE} if fenced else ())
    owner.ask(ONE, 1, now=0)
    request = owner.request(ABC, D, now=0)
    at = ticket_ns(D) - MARGIN_NS + late
    for voter in "ab":
        owner.count(voter, request.seq, Verdict((ONE,), ()), at)
    assert bool(owner.held(at)) == (not fenced or not late)


def test_a_lease_that_has_ended_is_not_revived_by_a_later_answer() -> None:
    owner = holding()
    late = D - 20 * MILLISECOND
    request = owner.request(ABC, D, late)
    for voter in ("a", "b"):
        owner.count(voter, request.seq, Verdict((ONE,), ()), D)
    assert owner.held(D) == {}
    assert owner.lost(D) == (ONE,)


def test_an_epoch_is_not_used_twice() -> None:
    owner = Candidate()
    owner.ask(ONE, 4, 0)
    owner.drop(ONE, Event.DEFER)
    owner.ask(ONE, 4, 0)
    lease = owner.egress_ips.lease(ONE)
    assert lease is not None
    assert lease.epoch == 5


def test_a_higher_epoch_is_claimed_with_the_lease_kept_and_announced_once_granted() -> None:
    owner = holding()
    owner.exceed(ONE, 8)
    assert owner.held(1)[ONE].held_epoch == 1
    request = owner.request(ABC, D, 1)
    assert request.claims == {ONE: 9}
    for voter in ("a", "b"):
        owner.count(voter, request.seq, Verdict((ONE,), ()), 2)
    assert owner.held(2)[ONE].held_epoch == 9


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
