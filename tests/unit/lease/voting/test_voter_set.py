"""The voter set: what is wanted, what is decided, what a node may still grant."""

from __future__ import annotations

import itertools
import time

import msgspec
import pytest

from gateway_agent.lease.voting.protocol import EPOCH, MILLISECOND, SILENT, VOTERS, Claim, is_majority
from gateway_agent.lease.voting.voter_node import VoteRequest, VoterNode
from gateway_agent.lease.voting.voter_set import (
    BOOTSTRAP_NS,
    GRACE_NS,
    PROPOSER_LEASE,
    Memory,
    Proposal,
    VoterSet,
    VoterSetState,
    first_voters,
    next_voters,
    paxos_step,
)

LEASE = 250 * MILLISECOND
INVENTORY = ("a", "b", "c", "w1", "w2")


def voters(version: int, members: str) -> VoterSet:
    return VoterSet(version, tuple(members))


def remembering(me: str, members: str, version: int = 1, accepted: Proposal | None = None) -> VoterSetState:
    return VoterSetState(me, Memory(voters(version, members), accepted, (0, ""), LEASE, LEASE, 0), now=0)


@pytest.mark.parametrize(
    ("egress", "others", "chosen"),
    [
        (["a"], [], "a"),
        (["b", "a"], [], "ab"),
        (["z"], ["c", "b", "a"], "abz"),
        (["a", "b", "c", "d"], ["w"], "abc"),
        (["a", "b", "c", "d", "e", "f"], [], "abcde"),
    ],
)
def test_the_first_set_takes_egress_nodes_then_witnesses(
    egress: list[str], others: list[str], chosen: str
) -> None:
    assert first_voters(egress, [*egress, *others]) == tuple(chosen)


@pytest.mark.parametrize(
    ("current", "egress", "others", "alive", "dead", "wanted"),
    [
        ("abc", "abc", "w", "abcw", "", "abc"),
        ("abc", "abc", "w", "abw", "c", "abcw"),
        ("abcw", "abc", "w", "abw", "c", "abw"),
        ("abc", "abc", "", "ab", "c", "abc"),
        ("abc", "abc", "w", "ab", "", "abc"),
        ("abc", "ab", "w", "abw", "", "abcw"),
        ("abc", "ab", "", "ab", "", "ab"),
        ("ab", "ab", "w", "abw", "", "abw"),
        ("abw", "abd", "w", "abdw", "", "abdw"),
        ("abdw", "abd", "w", "abdw", "", "abd"),
        ("abc", "abcde", "", "abcde", "", "abcd"),
        ("abcd", "abcd", "", "abcd", "", "abc"),
    ],
    ids=[
        "as good as can be had",
        "add before remove",
        "remove the dead",
        "nobody to replace it",
        "not heard lately is not dead",
        "left the inventory: add",
        "left the inventory: remove",
        "too few",
        "an egress node instead of a witness",
        "the witness goes",
        "grow to five",
        "one too many",
    ],
)
def test_what_the_chair_wants(
    current: str, egress: str, others: str, alive: str, dead: str, wanted: str
) -> None:
    found = next_voters(voters(4, current), list(egress), list(egress + others), list(alive), list(dead))
    assert (found or voters(4, current)).members == tuple(wanted)
    assert found is None or found.version == 5


@pytest.mark.parametrize("members", ["a", "ab", "abc", "abcd", "abcde"])
def test_majorities_of_consecutive_sets_always_meet(members: str) -> None:
    grown = members + "x"
    for before in _majorities(members):
        assert all(before & after for after in _majorities(grown))


def _majorities(members: str) -> list[set[str]]:
    every = (set(c) for n in range(len(members) + 1) for c in itertools.combinations(members, n))
    return [chosen for chosen in every if is_majority(chosen, tuple(members))]


MINE = (7, "a")
MINE_PROPOSED = Proposal(voters(2, "abcd"), *MINE)
EARLIER = Proposal(voters(2, "ab"), 5, "b")
LATER = Proposal(voters(2, "abce"), 6, "c")


@pytest.mark.parametrize(
    ("proposed", "answers", "decided", "proposal"),
    [
        (None, {"a": None}, None, None),
        (None, {"a": None, "x": None, "y": None}, None, None),
        (None, {"a": None, "b": None}, None, Proposal(voters(2, "abcw"), *MINE)),
        (None, {"a": None, "b": EARLIER}, None, Proposal(EARLIER.voters, *MINE)),
        (None, {"a": EARLIER, "b": LATER}, None, Proposal(LATER.voters, *MINE)),
        (
            None,
            {"a": None, "b": Proposal(voters(1, "abc"), 5, "b")},
            None,
            Proposal(voters(2, "abcw"), *MINE),
        ),
        (MINE_PROPOSED, {"a": MINE_PROPOSED, "b": None}, None, MINE_PROPOSED),
        (MINE_PROPOSED, {"a": MINE_PROPOSED, "b": EARLIER}, None, MINE_PROPOSED),
        (MINE_PROPOSED, {"a": MINE_PROPOSED, "b": MINE_PROPOSED}, MINE_PROPOSED.voters, None),
        (EARLIER, {"a": EARLIER, "b": EARLIER}, None, Proposal(EARLIER.voters, *MINE)),
    ],
    ids=[
        "one voter is not enough",
        "strangers do not count",
        "nothing accepted: a free choice",
        "what was accepted is proposed again",
        "of two the higher ballot",
        "an old version binds nobody",
        "not yet decided",
        "one of two holds another",
        "decided",
        "an old ballot of one's own decides nothing",
    ],
)
def test_the_chairs_step(
    proposed: Proposal | None,
    answers: dict[str, Proposal | None],
    decided: VoterSet | None,
    proposal: Proposal | None,
) -> None:
    outcome = paxos_step(voters(1, "abc"), MINE, proposed, answers, lambda: voters(2, "abcw"))
    assert outcome == (decided, proposal)


def test_a_voter_accepts_only_from_the_chair_that_holds_its_promise() -> None:
    voter_set_state = remembering("b", "abc")
    voter_set_state.accept(MINE_PROPOSED, version=1, promised=(8, "c"))
    assert voter_set_state.accepted is None
    voter_set_state.accept(MINE_PROPOSED, version=1, promised=MINE)
    assert voter_set_state.accepted == MINE_PROPOSED


def test_a_voter_that_accepts_the_next_set_refuses_the_one_before() -> None:
    voter_set_state = remembering("b", "abc", version=5)
    assert voter_set_state.oldest == 4
    voter_set_state.accept(Proposal(voters(6, "abcd"), *MINE), version=5, promised=MINE)
    assert voter_set_state.oldest == 5
    voter_set_state.adopt(voters(6, "abcd"), now=0)
    assert voter_set_state.accepted is None
    assert voter_set_state.oldest == 5


def test_for_one_lease_time_after_a_change_both_sets_must_grant() -> None:
    voter_set_state = remembering("a", "abc")
    start = 10 * LEASE
    voter_set_state.merge("b", voters(2, "abcd"), None, start)
    during, after = (
        voter_set_state.quorum(LEASE, start + LEASE - 1),
        voter_set_state.quorum(LEASE, start + LEASE),
    )
    assert during.sets == (tuple("abcd"), tuple("abc"))
    assert not during.reached_by({"a", "c", "d"} - {"c"})
    assert after.sets == (tuple("abcd"),)


def test_who_has_skipped_a_version_waits_for_one_lease_time() -> None:
    voter_set_state = remembering("a", "abc")
    start = 10 * LEASE
    voter_set_state.merge("b", voters(3, "bcd"), None, start)
    assert not voter_set_state.quorum(LEASE, start + LEASE - 1).reached_by(set("bcd"))
    assert voter_set_state.quorum(LEASE, start + LEASE).reached_by(set("bcd"))


def test_the_highest_version_is_taken_over_and_never_given_back() -> None:
    voter_set_state = remembering("a", "abc", version=4)
    assert not voter_set_state.merge("b", voters(3, "abd"), None, 0)
    assert voter_set_state.merge("b", voters(9, "ade"), None, 0)
    assert voter_set_state.current == voters(9, "ade")


def test_a_new_cluster_agrees_on_the_inventorys_set() -> None:
    voter_set_state = VoterSetState("a", None, now=0)
    voter_set_state.bootstrap_from(tuple("abc"))
    voter_set_state.merge("b", voters(0, "abc"), None, 1)
    assert not voter_set_state.finish_recovery(INVENTORY, 1), "one of two others"
    voter_set_state.merge("c", voters(0, "abd"), None, 2)
    assert not voter_set_state.finish_recovery(INVENTORY, 2), "not of one mind"
    voter_set_state.merge("c", voters(0, "abc"), None, 3)
    assert voter_set_state.finish_recovery(INVENTORY, 3)
    assert voter_set_state.current == voters(1, "abc")


def test_a_node_without_memory_learns_what_it_may_have_accepted() -> None:
    voter_set_state = VoterSetState("b", None, now=0)
    voter_set_state.bootstrap_from(tuple("abz"))
    voter_set_state.merge("a", voters(4, "abc"), Proposal(voters(5, "abcd"), 7, "a"), 1)
    assert voter_set_state.current == voters(4, "abc")
    assert not voter_set_state.finish_recovery(INVENTORY, 1)
    voter_set_state.merge("c", voters(4, "abc"), Proposal(voters(5, "ab"), 3, "c"), 2)
    assert voter_set_state.finish_recovery(INVENTORY, 2)
    assert voter_set_state.accepted == Proposal(voters(5, "abcd"), 7, "a")


def test_a_new_cluster_starts_without_one_of_its_nodes_soon() -> None:
    voter_set_state = VoterSetState("a", None, now=0)
    voter_set_state.bootstrap_from(tuple("abc"))
    for at, node in enumerate(["b", "w1"]):
        voter_set_state.merge(node, voters(0, "abc"), None, at)
        assert not voter_set_state.finish_recovery(INVENTORY, at), "two may know of another set"
    voter_set_state.merge("w2", voters(0, "abc"), None, 2)
    assert not voter_set_state.finish_recovery(INVENTORY, 2), "others have still to hear that this one is new"
    assert not voter_set_state.finish_recovery(INVENTORY, 1 + BOOTSTRAP_NS)
    assert voter_set_state.finish_recovery(INVENTORY, 2 + BOOTSTRAP_NS)
    assert voter_set_state.current == voters(1, "abc")


def test_a_node_that_learns_of_a_set_that_was_bootstrapped_meanwhile_knows_that_it_is_new() -> None:
    voter_set_state = VoterSetState("a", None, now=0)
    voter_set_state.bootstrap_from(tuple("abc"))
    for node in ("b", "w1", "w2"):
        voter_set_state.merge(node, voters(0, "abc"), None, 1)
    assert not voter_set_state.finish_recovery(INVENTORY, 1)
    voter_set_state.merge("b", voters(1, "abc"), None, 2)
    assert voter_set_state.finish_recovery(INVENTORY, 1 + BOOTSTRAP_NS)


@pytest.mark.parametrize("version", [1, 7])
def test_one_that_knows_a_set_already_makes_a_newcomer_wait_for_the_missing(version: int) -> None:
    voter_set_state = VoterSetState("a", None, now=0)
    voter_set_state.bootstrap_from(tuple("abc"))
    for node in ("b", "w1", "w2"):
        voter_set_state.merge(node, voters(version, "abc"), None, 1)
    assert not voter_set_state.finish_recovery(INVENTORY, GRACE_NS - 1)
    assert voter_set_state.finish_recovery(INVENTORY, GRACE_NS)


def test_a_node_without_memory_that_receives_from_no_node_trusts_the_inventory_in_the_end() -> None:
    voter_set_state = VoterSetState("a", None, now=0)
    voter_set_state.bootstrap_from(tuple("abc"))
    assert not voter_set_state.finish_recovery(INVENTORY, GRACE_NS - 1)
    assert voter_set_state.finish_recovery(INVENTORY, GRACE_NS)
    assert voter_set_state.current == voters(1, "abc")


def test_a_single_node_needs_no_other() -> None:
    voter_set_state = VoterSetState("a", None, now=0)
    voter_set_state.bootstrap_from(("a",))
    assert voter_set_state.finish_recovery(INVENTORY, 0)
    assert voter_set_state.quorum(LEASE, LEASE).reached_by({"a"})


def request(members: VoterSet, identity: str = "x", epoch: int = 1) -> VoteRequest:
    return VoteRequest(1, LEASE, members, (Claim(identity, epoch),), None)


@pytest.mark.parametrize(
    ("voter_set_state", "asked_under", "why"),
    [
        (remembering("b", "abc", version=5), voters(5, "abc"), None),
        (remembering("b", "abc", version=5), voters(4, "abd"), None),
        (remembering("b", "abc", version=5), voters(3, "abd"), VOTERS),
        (remembering("b", "abc", version=5), voters(5, "abd"), VOTERS),
        (remembering("b", "abc", 5, Proposal(voters(6, "abcd"), *MINE)), voters(4, "abd"), VOTERS),
        (VoterSetState("b", None, now=0), voters(5, "abc"), SILENT),
    ],
    ids=[
        "the same",
        "the one before",
        "too old",
        "another of this version",
        "it accepted the next",
        "it forgot",
    ],
)
def test_under_which_voter_set_a_voter_grants(
    voter_set_state: VoterSetState, asked_under: VoterSet, why: str | None
) -> None:
    voter_node = VoterNode(voter_set_state, None, LEASE, now=0)
    verdict = voter_node.vote("a", 1, request(asked_under), LEASE, now=LEASE)
    assert [refusal.why for refusal in verdict.refused] == ([why] if why else [])


def test_a_voter_keeps_its_promise_to_the_chair_over_a_restart() -> None:
    memory = Memory(voters(1, "abc"), None, (7, "a"), LEASE, LEASE, 0)
    voter_node = VoterNode(VoterSetState("b", memory, now=0), memory, LEASE, now=0)
    proposer = request(voters(1, "abc"), PROPOSER_LEASE, 6)
    assert voter_node.vote("c", 1, proposer, LEASE, now=LEASE).refused[0].why == EPOCH
    assert voter_node.memory(LEASE) == memory


def test_a_voter_that_knows_when_its_grants_end_waits_no_longer() -> None:
    memory = Memory(voters(1, "abc"), None, (0, ""), LEASE, 0, 0)

    def voter_node(now: int, granted_until: int) -> VoterNode:
        known = msgspec.structs.replace(memory, granted_until=granted_until)
        return VoterNode(VoterSetState("b", known, now), known, LEASE, now)

    assert voter_node(10 * LEASE, 3 * LEASE).silent_until == 3 * LEASE
    assert voter_node(10 * LEASE, 10 * LEASE + 7).silent_until == 10 * LEASE + 7
    assert voter_node(10 * LEASE, 90 * LEASE).silent_until == 11 * LEASE, "no grant outlives a lease time"


def test_what_is_remembered_covers_every_grant_and_an_earlier_silence() -> None:
    memory = Memory(voters(1, "abc"), None, (0, ""), LEASE, granted_until=5 * LEASE, learned_at=0)
    voter_node = VoterNode(VoterSetState("b", memory, 5 * LEASE - 9), memory, LEASE, 5 * LEASE - 9)
    assert voter_node.memory(LEASE).granted_until == 5 * LEASE  # type: ignore[union-attr]
    voter_node.vote("a", 1, request(voters(1, "abc")), LEASE, now=6 * LEASE)
    assert voter_node.memory(LEASE).granted_until == 7 * LEASE  # type: ignore[union-attr]


def test_a_set_learned_just_before_a_restart_bars_for_the_rest_of_a_lease_time() -> None:
    memory = Memory(voters(3, "abc"), None, (0, ""), LEASE, granted_until=0, learned_at=10 * LEASE)
    voter_set_state = VoterSetState("b", memory, now=10 * LEASE + 5)
    assert voter_set_state.quorum(LEASE, now=11 * LEASE - 1).sets == ()
    assert voter_set_state.quorum(LEASE, now=11 * LEASE).sets == (("a", "b", "c"),)


def test_the_change_of_voters_among_thousands_of_nodes_is_found_at_once() -> None:
    """Each with each would hold up the process that keeps the leases."""
    names = [f"n{number:05}" for number in range(30_000)]
    current = VoterSet(4, tuple(names[:5]))
    began = time.monotonic()
    assert next_voters(current, names[:5], names, names, []) is None
    assert time.monotonic() - began < 3
