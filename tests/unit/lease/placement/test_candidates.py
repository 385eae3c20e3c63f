"""Who asks for an egress IP, in which order."""

from __future__ import annotations

import pytest

from gateway_agent.lease.ipc import EgressIPSpec
from gateway_agent.lease.placement.candidates import ElectionInput, candidates
from gateway_agent.lease.placement.placement import rendezvous_hash
from gateway_agent.lease.voting.members import Member
from gateway_agent.lease.voting.voter_set import PROPOSER_LEASE

ONE = "0000000000000001"
NODES = ("g1", "g2", "g3")
BY_HASH = tuple(sorted(NODES, key=lambda node: rendezvous_hash(ONE, node)))
ME, *OTHERS = BY_HASH


def election_input(
    ready: bool = True,
    members: dict[str, Member] | None = None,
    masters: dict[str, str] | None = None,
    may_request: bool = True,
    without_quorum: bool = False,
    warming: tuple[str, ...] = (),
) -> ElectionInput:
    specs = {identity: EgressIPSpec(identity, "gw", "", NODES, ready) for identity in (ONE, PROPOSER_LEASE)}
    received = {name: Member(0) for name in OTHERS} if members is None else members
    return ElectionInput(ME, specs, received, masters or {}, may_request, without_quorum, warming)


@pytest.mark.parametrize(
    ("known", "order"),
    [
        (election_input(), BY_HASH),
        (election_input(ready=False), tuple(OTHERS)),
        (election_input(may_request=False), tuple(OTHERS)),
        (election_input(members={}), (ME,)),
        (election_input(members={OTHERS[1]: Member(0)}), (ME, OTHERS[1])),
        (
            election_input(members={OTHERS[0]: Member(0, isolated=True), OTHERS[1]: Member(0)}),
            (ME, OTHERS[1]),
        ),
        (election_input(members={OTHERS[0]: Member(0, isolated=True)}, without_quorum=True), (ME, OTHERS[0])),
        (election_input(members={OTHERS[0]: Member(0, unready={ONE: "down"})}), (ME,)),
        (election_input(masters={ONE: OTHERS[1]}), (OTHERS[1], ME, OTHERS[0])),
        (election_input(warming=(ONE,)), (*OTHERS, ME)),
        (election_input(warming=(ONE,), members={}), (ME,)),
        (election_input(warming=(ONE,), members={n: Member(0, warming=(ONE,)) for n in OTHERS}), BY_HASH),
        (
            election_input(members={OTHERS[0]: Member(0, warming=(ONE,)), OTHERS[1]: Member(0)}),
            (ME, OTHERS[1], OTHERS[0]),
        ),
        (election_input(members={OTHERS[0]: Member(0, warming=("other",))}), (ME, OTHERS[0])),
    ],
    ids=[
        "by lot",
        "not ready",
        "must not ask",
        "heard by nobody",
        "one is not heard",
        "one is isolated",
        "nobody has a majority",
        "one is not ready",
        "a healthy master first",
        "I have just become ready",
        "nobody else can",
        "all have just become ready",
        "another has just become ready",
        "it has just become ready for something else",
    ],
)
def test_the_order_of_candidates(known: ElectionInput, order: tuple[str, ...]) -> None:
    assert candidates(known)[ONE] == order


def test_without_a_majority_no_node_asks_for_the_chair() -> None:
    assert ME not in candidates(election_input(without_quorum=True, members={}))[PROPOSER_LEASE]
