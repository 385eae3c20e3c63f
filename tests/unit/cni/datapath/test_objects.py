from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.datapath.objects import node_nft, node_state
from cni.kernel import ids
from cni.kernel.state import Fdb, Neighbour, Route, Rule, Setting
from cni.plan import Destination, Plan, PlanEgressIP, PlanNode, PolicySet

ID = ids.egress_id("partner", "")
EGRESS = PlanEgressIP(ID, "partner", "", slot=1, vni=ids.vni(ID), eligible=("g1", "g2"), master="g1")
NODES = (PlanNode("g1", "10.0.0.1"), PlanNode("g2", "10.0.0.2"), PlanNode("w1", "10.0.0.11"))
DEVICE = EGRESS.device
ID6 = ids.egress_id("partner", "fd00:172::50")
EGRESS6 = PlanEgressIP(
    ID6, "partner", "fd00:172::50", slot=2, vni=ids.vni(ID6), eligible=("g1", "g2"), master="g1",
    interface="eth1", source6="fd00:172::50",
)  # fmt: skip
NODES6 = (PlanNode("g1", "fd00:10::1"), PlanNode("g2", "fd00:10::2"), PlanNode("w1", "fd00:10::11"))


def plan(node: str = "w1", egress: PlanEgressIP = EGRESS, **changes: Any) -> Plan:
    sets = (
        PolicySet(1, ("a",), (ID,), (Destination("203.0.113.0/24", ID), Destination("2001:db8::/32", ID))),
    )
    return replace(Plan(node, 0x0FF00000, 4799, 1450, NODES, (egress,), (), sets), **changes)


def test_a_worker_reaches_every_gateway_and_is_reached_by_none() -> None:
    state = node_state(plan())
    g1, g2 = (ids.node_mac(address) for address in ("10.0.0.1", "10.0.0.2"))
    assert state.fdb == {Fdb(DEVICE, g1, "10.0.0.1"), Fdb(DEVICE, g2, "10.0.0.2")}
    assert state.neighbours == {Neighbour(DEVICE, ids.NEXT_HOP, g1)}


def test_an_egress_node_reaches_every_gateway_and_answers_every_node() -> None:
    state = node_state(plan("g1", replace(EGRESS, master="g2")))
    g2, w1 = (ids.node_mac(address) for address in ("10.0.0.2", "10.0.0.11"))
    assert state.fdb == {
        Fdb(DEVICE, g2, "10.0.0.2"),
        Fdb("egw-back", g2, "10.0.0.2"),
        Fdb("egw-back", w1, "10.0.0.11"),
    }
    assert state.neighbours == {
        Neighbour(DEVICE, ids.NEXT_HOP, g2),
        Neighbour("egw-back", "10.0.0.2", g2),
        Neighbour("egw-back", "10.0.0.11", w1),
    }


def test_a_master_that_is_not_eligible_any_more_answers_every_node() -> None:
    state = node_state(plan("g1", replace(EGRESS, eligible=("g2",), master="g1")))
    assert Neighbour("egw-back", "10.0.0.11", ids.node_mac("10.0.0.11")) in state.neighbours


@given(st.integers(0, 50))
def test_what_a_worker_has_for_its_tunnels_does_not_grow_with_the_workers(others: int) -> None:
    more = (*NODES, *(PlanNode(f"w{number}", f"10.0.1.{number}") for number in range(2, 2 + others)))
    assert node_state(plan(nodes=more)) == node_state(plan())
    assert node_nft(plan(nodes=more)) == node_nft(plan())


def test_a_master_that_is_not_eligible_any_more_is_still_reached() -> None:
    state = node_state(plan("g2", replace(EGRESS, eligible=("g2",), master="g1")))
    g1 = ids.node_mac("10.0.0.1")
    assert {entry for entry in state.fdb if entry.device == DEVICE} == {Fdb(DEVICE, g1, "10.0.0.1")}
    assert Neighbour(DEVICE, ids.NEXT_HOP, g1) in state.neighbours


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
def test_the_slots_table_leads_to_the_master_or_nowhere(
    node: str, master: str, default: Route | None
) -> None:
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


def test_without_egress_ips_there_are_no_objects() -> None:
    assert list(node_state(plan(egress_ips=(), policy_sets=()))) == []


def test_an_alias_is_never_longer_than_the_kernel_keeps() -> None:
    long = replace(EGRESS, gateway="g" * 253, address="172.16.0.50")
    assert max(len(device.alias) for device in node_state(plan(egress=long)).vxlans) == 255


def test_a_way_without_a_known_egress_ip_is_dropped() -> None:
    nowhere = PolicySet(1, ("a",), ("?",), (Destination("203.0.113.0/24", "?"),))
    assert "elements = { 203.0.113.0/24 : goto no_gateway, " in node_nft(plan(policy_sets=(nowhere,)))


@given(st.lists(st.integers(0, 255), unique=True))
def test_the_map_of_a_set_covers_every_address_once(octets: list[int]) -> None:
    """Else a packet for an address that the map lacks, or that finds it half made, would go its own way."""
    destinations = tuple(Destination(f"{octet}.0.0.0/8", ID) for octet in octets)
    text = node_nft(plan(policy_sets=(PolicySet(1, ("a",), (ID,), destinations),)))
    [*maps] = re.findall(r"flags interval\n\t\telements = \{ (.*) \}", text)
    assert len(maps) == bool(octets)
    covered = []
    for element in maps[0].split(", ") if maps else []:
        addresses, verdict = element.split(" : ")
        first, _, last = addresses.partition("-")
        low = ip_network(first)
        high = ip_network(last) if last else low
        covered.append((int(low.network_address), int(high.broadcast_address)))
        assert (verdict == "goto steer_1") == (not last)
    ends = [-1, *(end for _, end in sorted(covered))]
    assert [start for start, _ in sorted(covered)] == [end + 1 for end in ends[:-1]]
    assert not octets or ends[-1] == 2**32 - 1


def test_direct_without_a_master_steers_nothing() -> None:
    direct = replace(EGRESS, master="", direct=True)
    assert "203.0.113.0/24 : goto unsteered_pod" in node_nft(plan(egress=direct))
    assert "203.0.113.0/24 : goto steer_1" in node_nft(plan(egress=replace(direct, master="g1")))


@pytest.mark.parametrize("name", ['eth1" drop', "eth*", "eth1; flush ruleset", "an-interface-too-long"])
def test_an_interface_that_nft_could_misread_is_none(name: str) -> None:
    text = node_nft(plan("g1", replace(EGRESS, interface=name, source="172.16.0.7")))
    assert name not in text
    assert "172.16.0.7" not in text


@pytest.mark.parametrize("prefix", ["203.0.113.0/24, drop", "203.0.113.1/24", "all"])
def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match=r"203|all"):
        node_nft(plan(policy_sets=(PolicySet(1, ("a",), (ID,), (Destination(prefix, ID),)),)))


def test_names_of_users_never_get_into_nft() -> None:
    text = node_nft(plan(egress=replace(EGRESS, gateway="}\nflush ruleset")))
    assert "flush" not in text


def test_equal_plans_give_equal_text() -> None:
    assert node_nft(plan()) == node_nft(plan())


def dual(node: str = "w1", **changes: Any) -> Plan:
    return plan(node, egress_ips=(EGRESS, EGRESS6), **changes)


@pytest.mark.parametrize(
    ("node", "default"),
    [
        ("w1", Route(6, 7002, "unicast", 1024, EGRESS6.device, ids.NEXT_HOP6)),
        ("g1", Route(6, 7002, "throw", 1024)),
        ("g2", Route(6, 7002, "unicast", 1024, EGRESS6.device, ids.NEXT_HOP6)),
    ],
    ids=["worker", "master", "standby"],
)
def test_the_table_of_an_ipv6_address_leads_ipv6_to_the_master_and_ipv4_nowhere(
    node: str, default: Route
) -> None:
    routes = {route for route in node_state(dual(node)).routes if route.table == 7002}
    assert routes == {Route(f, 7002, "unreachable", metric=ids.UNREACHABLE_METRIC) for f in (4, 6)} | {
        default
    }


def test_ipv6_answers_find_back_by_an_address_derived_from_the_node() -> None:
    state = node_state(dual("g1"))
    assert Route(6, 7000, "unicast", 1024, "egw-back") in state.routes
    assert Rule(6, 900, 0x07F00000, 0x0FF00000, 7000) in state.rules
    w1 = ids.node_mac("10.0.0.11")
    assert Neighbour("egw-back", ids.inner("10.0.0.11", 6), w1) in state.neighbours
    assert Neighbour("egw-back", "10.0.0.11", w1) in state.neighbours
    assert f"snat ip6 to {ids.inner('10.0.0.11', 6)}" in node_nft(dual())


def test_only_devices_that_carry_ipv6_have_it_and_they_are_silent() -> None:
    settings = node_state(dual()).settings
    assert {item.device for item in settings if (item.name, item.value) == ("disable_ipv6", "0")} == {
        EGRESS6.device,
        "egw-back",
    }
    of_device = sorted(
        str(item) for item in settings if item.device == EGRESS6.device and item.family == "ipv6"
    )
    names = ("accept_ra = 0", "addr_gen_mode = 1", "autoconf = 0", "disable_ipv6 = 0")
    assert of_device == [f"net.ipv6.conf.{EGRESS6.device}.{name}" for name in names], "made in this order"


def test_for_ipv4_alone_nothing_of_ipv6_exists_but_what_keeps_it_out() -> None:
    state = node_state(plan())
    assert not any(":" in item.address for item in state.neighbours)
    assert {route.kind for route in state.routes if route.family == 6} == {"unreachable"}
    assert Setting("egw-back", "ipv6", "disable_ipv6", "1") in state.settings
    assert "snat ip6" not in node_nft(plan())


def test_tunnels_too_small_for_ipv6_carry_ipv4_alone() -> None:
    state = node_state(dual(mtu=ids.IPV6_MIN_MTU - 1))
    assert not any(item.family == "ipv6" for item in state.settings)
    assert {route.kind for route in state.routes if route.family == 6} == {"unreachable"}
    assert not any(":" in item.address for item in state.neighbours)


def test_over_ipv6_nodes_are_reached_by_ipv6() -> None:
    state = node_state(dual(nodes=NODES6))
    g1 = ids.node_mac("fd00:10::1")
    assert {device.local for device in state.vxlans} == {"fd00:10::11"}
    assert Fdb(EGRESS6.device, g1, "fd00:10::1") in state.fdb
    answering = node_state(dual("g1", nodes=NODES6)).neighbours
    w1 = ids.node_mac("fd00:10::11")
    assert Neighbour("egw-back", ids.inner("fd00:10::11", 4), w1) in answering
    text = node_nft(dual(nodes=NODES6))
    [receive] = re.findall(r"chain tunnel_receive \{\n(.*?)\t\}", text, re.DOTALL)
    # Behind the rules for this node's own probes.
    first, *_ = [rule for rule in receive.splitlines() if 'iif "lo"' not in rule]
    assert first == "\t\tmeta nfproto ipv4 counter drop"
    assert "typeof ip6 saddr\n\t\telements = { fd00:10::1, fd00:10::2 }" in text
    assert f"snat ip to {ids.inner('fd00:10::11', 4)}" in text


def test_a_tunnel_has_ends_of_one_family() -> None:
    mixed = (PlanNode("g1", "fd00:10::1"), *NODES[1:])
    state = node_state(dual(nodes=mixed))
    assert {entry.destination for entry in state.fdb} == {"10.0.0.2"}
    assert {route.kind for route in state.routes if route.table != 7000} == {"unreachable"}
    assert "fd00:10::1 " not in node_nft(dual(nodes=mixed))


def test_synced_connections_have_a_source_of_their_own_and_older_ones_keep_theirs() -> None:
    plan = replace(dual(), egress_ips=(replace(EGRESS, address="172.16.0.50"), EGRESS6))
    synced = replace(plan, egress_ips=tuple(replace(egress, sync=True) for egress in plan.egress_ips))
    for family, egress in ((4, EGRESS), (6, EGRESS6)):
        own, older = ids.inner("10.0.0.11", family, synced=True), ids.inner("10.0.0.11", family)
        keyword = {4: "ip", 6: "ip6"}[family]
        text = node_nft(synced)
        assert f'oifname "{egress.device}" snat {keyword} to {own}' in text
        assert text.index(f"snat {keyword} to {own}") < text.index(f"snat {keyword} to {older}")
        assert own not in node_nft(plan).partition("chain nat")[2].partition("}")[0]
        for either in (plan, synced):
            for source in (own, older):
                assert f'oifname "{egress.device}" {keyword} saddr {source} goto encap' in node_nft(either)
                assert f"ct reply {keyword} daddr != {source}" in node_nft(either)
                answering = node_state(replace(either, node="g1")).neighbours
                assert Neighbour("egw-back", source, plan.nodes[2].mac) in answering


def test_an_ipv6_address_leaves_only_by_itself() -> None:
    text = node_nft(dual("g1"))
    assert 'oifname "eth1" ip6 saddr fd00:172::50 accept' in text
    assert f'oifname "{EGRESS6.device}" ip6 saddr {ids.inner("10.0.0.1", 6)} goto encap' in text


@pytest.mark.parametrize("master", ["g1", ""])
def test_direct_ipv6_without_an_address_of_its_family_goes_its_own_way(master: str) -> None:
    direct = replace(EGRESS, master=master, direct=True)
    assert "2001:db8::/32 : goto unsteered_pod" in node_nft(plan(egress=direct))
    assert "2001:db8::/32 : goto steer_1" in node_nft(plan(egress=replace(direct, direct=False)))


@pytest.mark.parametrize(("checked", "value"), [(False, "0"), (True, "2")])
def test_a_worker_without_a_default_route_takes_answers_out_of_the_tunnels(checked: bool, value: str) -> None:
    """Even the loose check drops them, since no route leads to their sources. If all interfaces have it, ours do."""
    state = node_state(dual(source_check=checked))
    found = {each.device: each.value for each in state.settings if each.name == "rp_filter"}
    assert found == dict.fromkeys((device.name for device in state.vxlans), value)
