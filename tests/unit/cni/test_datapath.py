from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.datapath import node_nft, node_state
from cni.kernel import ids
from cni.kernel.state import Fdb, Neighbour, Route, Rule
from cni.plan import Plan, PlanEgressIP, PlanNode, PolicySet, Way

ID = ids.egress_id("partner", "")
EGRESS = PlanEgressIP(ID, "partner", "", slot=1, vni=ids.vni(ID), eligible=("g1", "g2"), master="g1")
NODES = (PlanNode("g1", "10.0.0.1"), PlanNode("g2", "10.0.0.2"), PlanNode("w1", "10.0.0.11"))
DEVICE = EGRESS.device


def plan(node: str = "w1", egress: PlanEgressIP = EGRESS, **changes: Any) -> Plan:
    sets = (PolicySet(1, ("a",), (ID,), (Way("203.0.113.0/24", ID), Way("2001:db8::/32", ID))),)
    return replace(Plan(node, 0x0FF00000, 4799, 1450, NODES, (egress,), (), sets), **changes)


def test_a_worker_reaches_every_gateway_and_is_reached_by_every_node() -> None:
    state = node_state(plan())
    g1, g2 = (ids.node_mac(address) for address in ("10.0.0.1", "10.0.0.2"))
    assert state.fdb == {
        Fdb(DEVICE, g1, "10.0.0.1"),
        Fdb(DEVICE, g2, "10.0.0.2"),
        Fdb("egw-back", g1, "10.0.0.1"),
        Fdb("egw-back", g2, "10.0.0.2"),
    }
    assert Neighbour(DEVICE, ids.NEXT_HOP, g1) in state.neighbours
    assert Neighbour("egw-back", "10.0.0.2", g2) in state.neighbours


@pytest.mark.parametrize(
    ("node", "master", "default"),
    [
        ("w1", "g1", Route(4, 7001, "unicast", device=DEVICE, via=ids.NEXT_HOP)),
        ("g1", "g1", Route(4, 7001, "throw")),
        ("g2", "g1", Route(4, 7001, "unicast", device=DEVICE, via=ids.NEXT_HOP)),
        ("w1", "", None),
        ("w1", "gone", None),
    ],
    ids=["worker", "master", "standby", "no master", "master is no node"],
)
def test_the_slots_table_leads_to_the_master_or_nowhere(node: str, master: str, default: Route | None) -> None:
    routes = node_state(plan(node, replace(EGRESS, master=master))).routes
    unreachable = {Route(family, 7001, "unreachable", metric=ids.UNREACHABLE_METRIC) for family in (4, 6)}
    back = Route(4, 7000, "unicast", device="egw-back")
    assert routes == unreachable | {back} | ({default} if default else set())


def test_rules_test_all_bits_of_the_mask() -> None:
    assert node_state(plan()).rules == {
        Rule(4, 900, 0x07F00000, 0x0FF00000, 7000),
        Rule(4, 901, 0x00100000, 0x0FF00000, 7001),
        Rule(6, 901, 0x00100000, 0x0FF00000, 7001),
    }


def test_a_node_outside_the_inventory_has_rules_but_no_tunnels() -> None:
    state = node_state(plan("stranger"))
    assert not state.vxlans and not state.fdb and not state.neighbours
    assert {route.kind for route in state.routes} == {"unreachable"}
    assert len(state.rules) == 3


def test_without_egress_ips_nothing_stands() -> None:
    assert list(node_state(plan(egress_ips=(), policy_sets=()))) == []


def test_an_alias_is_never_longer_than_the_kernel_keeps() -> None:
    long = replace(EGRESS, gateway="g" * 253, address="172.16.0.50")
    assert max(len(device.alias) for device in node_state(plan(egress=long)).vxlans) == 255


def test_a_way_without_a_known_egress_ip_is_dropped() -> None:
    nowhere = PolicySet(1, ("a",), ("?",), (Way("203.0.113.0/24", "?"),))
    assert "elements = { 203.0.113.0/24 : drop, " in node_nft(plan(policy_sets=(nowhere,)))


@given(st.lists(st.integers(0, 255), unique=True))
def test_the_map_of_a_set_covers_every_address_once(octets: list[int]) -> None:
    """Else a packet for an address that the map lacks, or that finds it half made, would go its own way."""
    ways = tuple(Way(f"{octet}.0.0.0/8", ID) for octet in octets)
    text = node_nft(plan(policy_sets=(PolicySet(1, ("a",), (ID,), ways),)))
    [*maps] = re.findall(r"flags interval\n\t\telements = \{ (.*) \}", text)
    assert len(maps) == bool(octets)
    covered = []
    for element in maps[0].split(", ") if maps else []:
        addresses, verdict = element.split(" : ")
        first, _, last = addresses.partition("-")
        low = ip_network(first)
        high = ip_network(last) if last else low
        covered.append((int(low.network_address), int(high.broadcast_address)))
        assert (verdict == "goto go_1") == (not last)
    ends = [-1, *(end for _, end in sorted(covered))]
    assert [start for start, _ in sorted(covered)] == [end + 1 for end in ends[:-1]]
    assert not octets or ends[-1] == 2**32 - 1


def test_direct_without_a_master_steers_nothing() -> None:
    direct = replace(EGRESS, master="", direct=True)
    assert "203.0.113.0/24 : goto unsteered" in node_nft(plan(egress=direct))
    assert "203.0.113.0/24 : goto go_1" in node_nft(plan(egress=replace(direct, master="g1")))


@pytest.mark.parametrize("name", ['eth1" drop', "eth*", "eth1; flush ruleset", "an-interface-too-long"])
def test_an_interface_that_nft_could_misread_is_none(name: str) -> None:
    text = node_nft(plan("g1", replace(EGRESS, interface=name, source="172.16.0.7")))
    assert name not in text
    assert "172.16.0.7" not in text


@pytest.mark.parametrize("prefix", ["203.0.113.0/24, drop", "203.0.113.1/24", "all"])
def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match=r"203|all"):
        node_nft(plan(policy_sets=(PolicySet(1, ("a",), (ID,), (Way(prefix, ID),)),)))


def test_names_of_users_never_get_into_nft() -> None:
    text = node_nft(plan(egress=replace(EGRESS, gateway="}\nflush ruleset")))
    assert "flush" not in text


def test_equal_plans_give_equal_text() -> None:
    assert node_nft(plan()) == node_nft(plan())
