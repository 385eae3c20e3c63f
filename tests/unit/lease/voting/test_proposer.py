"""The proposer's count: which answers belong together, and when a voter set is decided."""

from __future__ import annotations

from gateway_agent.lease.voting.proposer import MAX_PENDING, Proposer
from gateway_agent.lease.voting.protocol import Quorum, Request
from gateway_agent.lease.voting.voter_set import PROPOSER_LEASE, Proposal, VoterSet

CURRENT = VoterSet(1, ("a", "b", "c"))
WANTED, OTHER = VoterSet(2, ("a", "b", "d")), VoterSet(2, ("b", "c", "d"))


def request(seq: int, epoch: int = 5, version: int = 1) -> Request:
    """Return a request of the proposer under the voter set of a version."""
    quorum = Quorum(version, (CURRENT.members,), CURRENT.members)
    return Request(seq, 0, 1, {PROPOSER_LEASE: epoch}, quorum)


def count(
    proposer: Proposer, voter: str, of: Request, accepted: Proposal | None = None, current: VoterSet = CURRENT
) -> VoterSet | None:
    return proposer.count(voter, of, accepted, current, lambda: WANTED)


def proposing() -> Proposer:
    """Return a proposer that a majority has let propose WANTED."""
    proposer = Proposer("a")
    assert count(proposer, "a", request(1)) is None
    assert proposer.proposal is None
    assert count(proposer, "b", request(1)) is None
    assert proposer.proposal == Proposal(WANTED, 5, "a")
    return proposer


def test_a_majority_may_propose_and_a_majority_that_accepts_decides() -> None:
    proposer = proposing()
    assert count(proposer, "a", request(2), proposer.proposal) is None
    assert count(proposer, "c", request(2), proposer.proposal) == WANTED
    assert proposer.proposal is None


def test_acceptances_of_two_requests_are_not_added_up() -> None:
    proposer = proposing()
    assert count(proposer, "a", request(2), proposer.proposal) is None
    assert count(proposer, "b", request(3), proposer.proposal) is None
    assert proposer.proposal is not None


def test_what_an_earlier_proposer_may_have_had_decided_is_proposed_again() -> None:
    proposer, earlier = Proposer("a"), Proposal(OTHER, 4, "c")
    count(proposer, "a", request(1))
    count(proposer, "b", request(1), earlier)
    assert proposer.proposal == Proposal(OTHER, 5, "a")


def test_answers_under_another_voter_set_count_for_nothing() -> None:
    proposer = proposing()
    for voter in ("a", "b", "c"):
        assert count(proposer, voter, request(2, version=0), proposer.proposal) is None


def test_answers_to_a_claim_of_an_epoch_before_change_nothing() -> None:
    proposer = proposing()
    made = proposer.proposal
    for voter in ("a", "b", "c"):
        assert count(proposer, voter, request(2, epoch=4), made) is None
    assert proposer.proposal == made


def test_a_higher_epoch_asks_a_majority_anew_before_it_proposes() -> None:
    proposer = proposing()
    made = proposer.proposal
    count(proposer, "c", request(2, epoch=6))
    assert proposer.proposal == made
    count(proposer, "b", request(2, epoch=6), made)
    assert proposer.proposal == Proposal(WANTED, 6, "a")


def test_answers_to_old_requests_are_forgotten() -> None:
    proposer = Proposer("a")
    for seq in range(1, MAX_PENDING + 2):
        count(proposer, "a", request(seq))
    assert count(proposer, "b", request(1)) is None
    assert proposer.proposal is None, "the answer of a to this request is too old to count"
    count(proposer, "b", request(MAX_PENDING + 1))
    assert proposer.proposal is not None
