"""The leases of one node, one rule at a time: requests and what their answers make of them."""

from __future__ import annotations

import pytest

from gateway_agent.lease.egress_ips.egress_ip import EgressIPs, Event
from gateway_agent.lease.mastership.owner import Owner
from gateway_agent.lease.voting.protocol import (
    MARGIN_NS,
    MILLISECOND,
    RATE_BOUND,
    Quorum,
    Verdict,
    ticket_ns,
)

D = 250 * MILLISECOND
ONE = "0000000000000001"
ABC = Quorum(1, (("a", "b", "c"),), ("a", "b", "c"))


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


TWO = "0000000000000002"


def renewed(first: tuple[str, ...], second: tuple[str, ...]) -> Owner:
    """Return the owner of two egress IPs whose second request two voters have answered with these grants."""
    owner = Candidate()
    owner.egress_ips.transition(TWO, Event.MASTERLESS)
    for identity in (ONE, TWO):
        owner.ask(identity, 1, 0)
    request = owner.request(ABC, D, 0)
    for voter in ("a", "b"):
        owner.count(voter, request.seq, Verdict((ONE, TWO), ()), 1)
    request = owner.request(ABC, D, D // 2)
    for voter, granted in (("a", first), ("b", second)):
        owner.count(voter, request.seq, Verdict(granted, ()), D // 2 + 1)
    return owner


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        ((ONE, TWO), (ONE, TWO), True),
        ((ONE, TWO), (TWO, ONE), True),
        ((ONE, TWO), (ONE,), False),
        ((ONE,), (ONE, TWO), False),
    ],
    ids=["all", "all in another order", "one by the second voter", "one by the first voter"],
)
def test_answers_that_grant_all_and_answers_that_grant_some_are_counted_together(
    first: tuple[str, ...], second: tuple[str, ...], both: bool
) -> None:
    owner = renewed(first, second)
    assert set(owner.held(D)) == ({ONE, TWO} if both else {ONE})
    assert owner.lost(D) == (() if both else (TWO,))


def test_a_claim_that_is_given_up_is_in_no_later_request() -> None:
    owner = renewed((ONE, TWO), (ONE, TWO))
    assert owner.request(ABC, D, D // 2 + 2).claims == {ONE: 1, TWO: 1}
    owner.drop(ONE, Event.RELEASE)
    assert owner.request(ABC, D, D // 2 + 3).claims == {TWO: 1}
    owner.exceed(TWO, 7)
    assert owner.request(ABC, D, D // 2 + 4).claims == {TWO: 8}


def test_an_answer_that_comes_after_the_end_of_a_lease_renews_none() -> None:
    owner = renewed((ONE, TWO), (ONE, TWO))
    request = owner.request(ABC, D, D // 2 + 2)
    end = owner.next_end()
    for voter in ("a", "b"):
        owner.count(voter, request.seq, Verdict((ONE, TWO), ()), end)
    assert owner.held(end) == {}
