"""Where packets out of a tunnel would leave: what is asked of the kernel, and what its answers mean."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cni.kernel import ids
from cni.plan import Plan, PlanEgressIP, PlanNode
from gateway_agent.manifests.model import Policy
from gateway_agent.policy.egress_node.exit_paths import (
    EVERYTHING,
    Found,
    Lookup,
    SourceRefusal,
    lookups,
    reason,
)

ID = ids.egress_id("partner", "")
EGRESS = PlanEgressIP(ID, "partner", "", 1, ids.vni(ID), ("g1",), interface="eth1", source="172.16.0.7")
PLAN = Plan(
    "g1", 0x0FF00000, 4799, 1450, (PlanNode("g1", "10.0.0.7"), PlanNode("w1", "10.0.0.21")), (EGRESS,)
)
NEVER = ("10.0.0.7/32", "10.0.0.21/32", "10.244.0.0/16")
RIGHT = Found("eth1", "172.16.0.1")


def policy(*destinations: str, excluded: tuple[str, ...] = ()) -> Policy:
    return Policy("backend", "partner", (), destinations, excluded)


def asked(*policies: Policy, egress: PlanEgressIP = EGRESS) -> dict[str, str]:
    return {lookup.destination: message for lookup, message in lookups(PLAN, egress, policies, NEVER).items()}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (policy(), {EVERYTHING[4]: "everything (IPv4)"}),
        (policy("0.0.0.0/0"), {EVERYTHING[4]: "everything (IPv4)"}),
        (policy("203.0.113.0/24"), {"203.0.113.1": "203.0.113.0/24"}),
        (policy("203.0.113.7/32"), {"203.0.113.7": "203.0.113.7/32"}),
        (policy("203.0.113.6/31"), {"203.0.113.6": "203.0.113.6/31"}),
        (policy("203.0.113.0/24", excluded=("203.0.113.0/30",)), {"203.0.113.4": "203.0.113.0/24"}),
        (policy("203.0.113.0/24", excluded=("203.0.113.0/24",)), {}),
        (policy("10.244.0.0/15"), {"10.245.0.0": "10.244.0.0/15"}),
        (policy("10.244.7.0/24"), {}),
        (policy("2001:db8::/32"), {}),
    ],
)
def test_one_address_of_each_destination_is_asked_for(found: Policy, expected: dict[str, str]) -> None:
    assert asked(found) == expected


def test_it_is_asked_as_a_packet_of_another_node_would_come() -> None:
    [lookup] = lookups(PLAN, EGRESS, [policy()], NEVER)
    assert lookup == Lookup(EVERYTHING[4], "10.0.0.21", EGRESS.device, 0)
    [routed] = lookups(PLAN, replace(EGRESS, routed=True, table=500), [policy()], NEVER)
    assert routed.mark == PLAN.layout.leaving(EGRESS.slot)


def test_the_only_node_asks_nothing() -> None:
    """Nothing comes by its tunnels, and the kernel refuses packets from the node's own address."""
    assert lookups(replace(PLAN, nodes=PLAN.nodes[:1]), EGRESS, [policy()], NEVER) == {}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (RIGHT, ""),
        (Found("eth1"), ""),
        (Found("lo"), ""),
        (None, ""),
        (
            Found("eth0", "10.0.0.1"),
            "this node routes 203.0.113.0/24 by eth0 via 10.0.0.1, not by eth1: ip route add",
        ),
        (Found("eth0"), "this node routes 203.0.113.0/24 by eth0, not by eth1"),
        (
            Found(error="Network is unreachable"),
            "this node has no route to 203.0.113.0/24 (Network is unreachable)",
        ),
        (
            Found(error="Invalid argument", refusal=SourceRefusal.STRICT),
            f"the kernel drops what comes by {EGRESS.device} (rp_filter), since the route back to their source leads "
            f"elsewhere: sysctl -w net.ipv4.conf.{EGRESS.device}.rp_filter=2",
        ),
        (
            Found(error="Invalid cross-device link", refusal=SourceRefusal.UNROUTED),
            f"the kernel drops what comes by {EGRESS.device} (rp_filter), since no route leads back to their source: "
            "sysctl -w net.ipv4.conf.all.rp_filter=0, or add a route",
        ),
    ],
)
def test_each_wrong_way_out_is_named(found: Found | None, expected: str) -> None:
    wanted = lookups(PLAN, EGRESS, [policy("203.0.113.0/24")], NEVER)
    answers = dict.fromkeys(wanted, found) if found else {}
    text = reason(EGRESS, wanted, answers)
    assert text.startswith(expected) and bool(text) == bool(expected)


def test_a_table_of_another_program_is_named_and_others_are_counted() -> None:
    routed = replace(EGRESS, routed=True, table=500)
    wanted = lookups(PLAN, routed, [policy("203.0.113.0/24", "198.51.100.0/24")], NEVER)
    text = reason(routed, wanted, dict.fromkeys(wanted, Found("eth0")))
    assert text.startswith(
        "routing table 500 routes 203.0.113.0/24 by eth0, not by eth1, and 1 more destination"
    )
    assert "table 500" in text.partition(": ")[2]
