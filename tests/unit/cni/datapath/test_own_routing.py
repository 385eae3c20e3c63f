"""Gateways with their own routing: tables, rules and the check of the next hop."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cni.datapath import own_routing
from cni.kernel import ids
from cni.kernel.state import Route, Rule
from cni.plan import Plan, PlanEgressIP, PlanNode

HOP, LAN = "172.16.0.254", "172.16.0.0/24"
SLOT = 3
EGRESS = PlanEgressIP(
    "0" * 16, "partner", "", slot=SLOT, vni=7, eligible=("g1", "g2"), master="g1", interface="eth1",
    source="172.16.0.7", routed=True, next_hop=HOP, on_link=LAN,
)  # fmt: skip
OWN = ids.EXIT_TABLE_BASE + SLOT


def plan(*egress_ips: PlanEgressIP, node: str = "g2") -> Plan:
    nodes = (PlanNode("g1", "10.0.0.1"), PlanNode("g2", "10.0.0.2"))
    return Plan(node, 0x0FF00000, 4799, 1450, nodes, egress_ips)


def routes(*egress_ips: PlanEgressIP, node: str = "g2") -> set[tuple[int, str, str]]:
    """Return table, kind and next hop of each route."""
    return {(each.table, each.kind, each.via) for each in own_routing.routes(plan(*egress_ips, node=node))}


@pytest.mark.parametrize("change", [{"routed": False}, {"interface": ""}])
def test_other_gateways_have_no_table_of_their_own(change: dict[str, object]) -> None:
    other = replace(EGRESS, **change)  # type: ignore[arg-type]
    assert not own_routing.of(other)
    assert routes(other) == set()
    assert list(own_routing.rules(plan(other))) == []
    assert own_routing.verdict(other) == "accept"


def test_below_the_next_hop_nothing_is_reached() -> None:
    assert routes(EGRESS) == {
        (ids.EXIT_TABLE_BASE, "unreachable", ""),
        (OWN, "unreachable", ""),
        (OWN, "unicast", HOP),
        (OWN, "unicast", ""),
    }


def test_without_a_next_hop_nothing_leaves() -> None:
    down = replace(EGRESS, next_hop="", on_link="")
    assert {kind for _, kind, _ in routes(down)} == {"unreachable"}


def test_the_masters_own_pods_leave_by_the_same_next_hop() -> None:
    slot = ids.TABLE_BASE + SLOT
    assert {via for table, _, via in routes(EGRESS, node="g1") if table == slot} == {HOP, ""}
    assert {table for table, _, _ in routes(EGRESS, node="g2")} == {ids.EXIT_TABLE_BASE, OWN}


@pytest.mark.parametrize("address", ["", "2001:db8::50"])
def test_routes_have_the_family_and_the_metric_that_the_kernel_gives_them(address: str) -> None:
    family = 6 if address else 4
    found = set(own_routing.routes(plan(replace(EGRESS, address=address))))
    assert {each.family for each in found} == {family}
    metric = {4: 0, 6: 1024}[family]
    assert Route(family, OWN, "unicast", metric, "eth1", HOP) in found


def test_a_marked_packet_finds_its_table_and_an_answer_goes_past_it() -> None:
    layout = plan().layout
    leaving, here = layout.leaving(SLOT), layout.number(SLOT)
    found = set(own_routing.rules(plan(EGRESS)))
    assert Rule(4, ids.RULE_PRIORITY_BASE + SLOT, leaving, layout.mask, OWN) in found
    answers = {each for each in found if each.priority == ids.ANSWER_PRIORITY}
    assert {(each.mark, each.table, each.iif) for each in answers} == {
        (leaving, ids.TABLE_BASE, "eth1"),
        (here, own_routing.MAIN_TABLE, "eth1"),
    }
    assert max(each.priority for each in answers) < ids.RULE_PRIORITY_BASE


@pytest.mark.parametrize(("node", "marks"), [("g2", 1), ("g1", 2)])
def test_another_programs_table_comes_first_and_its_next_hop_is_not_checked(node: str, marks: int) -> None:
    named = replace(EGRESS, table=100, next_hop="", on_link="")
    found = [each for each in own_routing.rules(plan(named, node=node)) if each.table == 100]
    assert [each.priority for each in found] == [ids.FOREIGN_TABLE_PRIORITY] * marks
    assert own_routing.verdict(named) == "accept"


def test_what_leaves_by_another_router_is_dropped() -> None:
    assert own_routing.verdict(EGRESS) == f"goto exit_{SLOT}"
    assert list(own_routing.exit_rules(EGRESS)) == [
        f"ip daddr {LAN} accept",
        f"rt ip nexthop {HOP} accept",
        "counter drop",
    ]
    assert list(own_routing.exit_rules(replace(EGRESS, next_hop="", on_link=""))) == ["counter drop"]
