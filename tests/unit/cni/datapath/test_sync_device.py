"""The device of connection tables: its partners, and what gets in and out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.datapath import sync_device
from cni.kernel import ids
from cni.kernel.state import Fdb
from cni.plan import Plan, PlanEgressIP, PlanNode

NAMES = ("g1", "g2", "g3", "w1")
NODES = tuple(PlanNode(name, f"10.0.0.{number}") for number, name in enumerate(NAMES, 1))


def egress(slot: int, eligible: frozenset[str], sync: bool) -> PlanEgressIP:
    return PlanEgressIP(f"{slot:016x}", "partner", "", slot, slot, tuple(sorted(eligible)), sync=sync)


def plan(node: str, *egress_ips: PlanEgressIP) -> Plan:
    return Plan(node, 0x0FF00000, 4799, 1450, NODES, egress_ips)


SHARED = egress(1, frozenset({"g1", "g2"}), True)
gateways = st.lists(st.tuples(st.frozensets(st.sampled_from(NAMES)), st.booleans()), max_size=4)


@given(gateways)
def test_two_nodes_are_partners_of_each_other_or_of_none(drawn: list[tuple[frozenset[str], bool]]) -> None:
    egress_ips = [egress(slot, eligible, sync) for slot, (eligible, sync) in enumerate(drawn, 1)]
    partners = {name: {n.name for n in sync_device.partners(plan(name, *egress_ips))} for name in NAMES}
    for name, found in partners.items():
        expected = {other for eligible, sync in drawn if sync and name in eligible for other in eligible}
        assert found == expected - {name}
        assert all(name in partners[other] for other in found)


def test_a_node_of_the_other_underlay_is_no_partner() -> None:
    nodes = (PlanNode("g1", "10.0.0.1"), PlanNode("g2", "fd00::2"))
    assert sync_device.partners(replace(plan("g1", SHARED), nodes=nodes)) == ()


def test_a_node_outside_of_the_inventory_has_no_partner() -> None:
    assert sync_device.partners(replace(plan("g1", SHARED), nodes=NODES[1:])) == ()


def test_each_partner_gets_a_copy() -> None:
    [entry] = sync_device.fdb(plan("g1", SHARED))
    assert entry == Fdb(ids.SYNC_DEVICE, ids.FLOOD_MAC, "10.0.0.2")


def test_nothing_else_reaches_conntrackd_and_only_root_sends() -> None:
    shared = plan("g1", SHARED)
    accept, drop = sync_device.input_rules(shared)
    assert f'iifname "{ids.SYNC_DEVICE}"' in accept and accept.endswith("accept")
    assert drop == f"udp dport {ids.SYNC_PORT} counter drop"
    [leave] = sync_device.leave_rules(shared)
    assert "meta skuid 0" in leave


@pytest.mark.parametrize("made", [sync_device.input_rules, sync_device.nat_rules, sync_device.leave_rules])
def test_without_partners_there_is_no_rule(made: object) -> None:
    assert callable(made)
    assert list(made(plan("w1", SHARED))) == []


@pytest.mark.parametrize(("mtu", "families"), [(1450, {"ipv4", "ipv6"}), (1279, {"ipv4"})])
def test_a_device_that_has_no_ipv6_has_no_setting_of_it(mtu: int, families: set[str]) -> None:
    assert {s.family for s in sync_device.settings(replace(plan("g1", SHARED), mtu=mtu))} == families
