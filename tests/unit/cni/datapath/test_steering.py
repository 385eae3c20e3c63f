"""From an interface's tag and a destination to a mark: nothing is let out by finding nothing."""

from __future__ import annotations

import ipaddress
import itertools
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.datapath.nft_blocks import Marks
from cni.datapath.objects import node_state
from cni.datapath.steering import bridge_chains, gaps, inet_chains
from cni.kernel import ids
from cni.plan import Destination, Plan, PolicySet

from .test_objects import EGRESS, ID, plan

NETWORKS = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
        lambda drawn: ipaddress.IPv4Network((drawn[0] >> (32 - drawn[1]) << (32 - drawn[1]), drawn[1]))
    ),
    max_size=6,
)


def text(of: Plan) -> str:
    return "".join(inet_chains(of, Marks(of)))


def rules(body: str, chain: str) -> list[str]:
    found = re.search(rf"\tchain {chain} \{{\n(.*?)\t\}}\n", body, re.DOTALL)
    assert found is not None, chain
    return [line.strip() for line in found[1].splitlines()]


@given(NETWORKS)
def test_networks_and_gaps_are_every_address_once(drawn: list[ipaddress.IPv4Network]) -> None:
    disjoint = list(ipaddress.collapse_addresses(drawn))
    ranges = sorted(
        [(int(n.network_address), int(n.broadcast_address)) for n in disjoint]
        + [(int(first), int(last)) for first, last in gaps(disjoint)]
    )
    if disjoint:
        assert ranges[0][0] == 0
        assert ranges[-1][1] == 2**32 - 1
        assert all(one[1] + 1 == other[0] for one, other in itertools.pairwise(ranges))


def test_a_connection_on_another_path_ends_and_moves_nowhere() -> None:
    body = text(plan())
    known, other = rules(body, "steer_1")[:2]
    assert known.startswith("ct mark and 0x0ff00000 == 0x00100000 ")
    assert other.endswith("goto off_path")
    assert "ct status and confirmed" in other
    assert rules(body, "off_path") == [
        "meta l4proto tcp ct state established counter reject with tcp reset",
        "counter drop",
    ]


@pytest.mark.parametrize(
    ("direct", "master", "verdict"),
    [(False, "g1", "goto steer_1"), (False, "", "goto steer_1"),
     (True, "g1", "goto steer_1"), (True, "", "goto unsteered_pod")],
)  # fmt: skip
def test_without_a_master_only_direct_lets_packets_go_their_own_way(
    direct: bool, master: str, verdict: str
) -> None:
    body = text(plan(egress=replace(EGRESS, direct=direct, master=master)))
    assert f"203.0.113.0/24 : {verdict}" in body


def test_a_destination_of_an_unknown_egress_ip_is_dropped() -> None:
    sets = (PolicySet(1, ("a",), ("0" * 16,), (Destination("203.0.113.0/24", "0" * 16),)),)
    body = text(plan(policy_sets=sets))
    assert "203.0.113.0/24 : goto no_gateway" in body
    assert rules(body, "no_gateway") == ["counter drop"]


@pytest.mark.parametrize(("master", "counted"), [("g1", False), ("", True), ("of another cluster", True)])
def test_what_only_an_unreachable_route_takes_is_counted(master: str, counted: bool) -> None:
    of = plan(egress=replace(EGRESS, master=master))
    assert ("jump no_master" in rules(text(of), "steer_1")) == counted
    assert rules(text(of), "no_master") == ["counter"]
    routes = {route.kind for route in node_state(of).routes if route.table == ids.TABLE_BASE + 1}
    assert routes == ({"unreachable"} if counted else {"unreachable", "unicast"})


def test_sets_with_the_same_destinations_share_one_map() -> None:
    destinations = (Destination("203.0.113.0/24", ID),)
    sets = tuple(PolicySet(number, (name,), (ID,), destinations) for number, name in ((1, "a"), (2, "b")))
    assert text(plan(policy_sets=sets)).count("map destinations4_") == 1


def test_a_bridge_clears_a_mark_that_is_not_ours() -> None:
    body = "".join(bridge_chains(plan()))
    assert rules(body, "tag")[-1].startswith("meta mark and 0x0ff00000 != 0 meta mark set")
    assert rules(body, "tagged") == ["iifgroup vmap @tagged_to", "counter drop"]


def test_answers_of_a_tagged_pod_are_not_steered() -> None:
    assert rules(text(plan()), "tagged")[0] == "ct direction reply goto tagged_reply"
