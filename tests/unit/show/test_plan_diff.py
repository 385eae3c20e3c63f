"""The pods, addresses and connections that an edit of the manifests would change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cni.plan import Plan, PodIdentity, Requirement, Selector
from gateway_agent.manifests.model import VIRTUAL_IP, Gateway, Inventory, Node, Policy
from gateway_agent.policy import planner
from gateway_agent.show import plan_diff

EGRESS = (Requirement("role", "In", ("egress",)),)
BACKEND = (Selector((Requirement("app", "In", ("backend",)),), None),)
WEB, OTHER = PodIdentity("prod", "web", {"app": "backend"}), PodIdentity("prod", "other", {"app": "x"})
BEFORE = Inventory(
    gateways=(
        Gateway("partner", EGRESS, VIRTUAL_IP, addresses=("172.16.0.50",)),
        Gateway("bank", EGRESS, VIRTUAL_IP, addresses=("172.16.0.60",)),
    ),
    policies=(Policy("backend", "partner", BACKEND, ("203.0.113.0/24",)),),
    nodes=(
        Node("g1", {"role": "egress"}, ("172.16.0.7",)),
        Node("g2", {"role": "egress"}, ("172.16.0.8",)),
        Node("w1", {}, ("172.16.0.21",)),
    ),
)


def plan(inventory: Inventory, *pods: PodIdentity) -> Plan:
    settings = planner.Settings("w1", 0x0FF00000, 4799, 1450, ("10.244.0.0/16",))
    return planner.build(inventory, settings, {}, {}, pods=pods).plan


def changed(after: Inventory, pod: PodIdentity, labels: Any = ...) -> list[tuple[tuple[str, ...], str, str]]:
    """Return (prefixes, exit before, exit after) of a pod; ``labels``: those after the edit, if they differ."""
    edited = pod if labels is ... else replace(pod, labels=labels)
    subject = plan_diff.Pod(pod, edited, "w1")
    found = plan_diff.of_pods(plan(BEFORE, pod), plan(after, edited), [subject])
    return [(each.prefixes, each.before, each.after) for change in found for each in change.changes]


def edited(**fields: Any) -> Inventory:
    return replace(BEFORE, policies=(replace(BEFORE.policies[0], **fields),))


def test_no_edit_changes_no_pod() -> None:
    assert [changed(BEFORE, pod) for pod in (WEB, OTHER)] == [[], []]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (
            edited(gateway="bank"),
            [(("203.0.113.0/24",), "partner 172.16.0.50", "bank 172.16.0.60")],
        ),
        (
            edited(destinations=("203.0.113.0/25",)),
            [(("203.0.113.128/25",), "partner 172.16.0.50", "direct")],
        ),
        (
            edited(destinations=("203.0.113.0/24", "198.51.100.0/24")),
            [(("198.51.100.0/24",), "direct", "partner 172.16.0.50")],
        ),
        (replace(BEFORE, policies=()), [(("203.0.113.0/24",), "partner 172.16.0.50", "direct")]),
    ],
    ids=["another gateway", "fewer destinations", "more destinations", "no policy"],
)
def test_an_edit_changes_the_exits_of_the_pods_that_it_concerns(after: Inventory, expected: Any) -> None:
    assert changed(after, WEB) == expected
    assert changed(after, OTHER) == []


def test_new_labels_change_the_exit_and_unknown_ones_cut_the_pod_off() -> None:
    assert changed(BEFORE, WEB, {"app": "x"}) == [(("203.0.113.0/24",), "partner 172.16.0.50", "direct")]
    assert {(before, after) for _, before, after in changed(BEFORE, OTHER, None)} == {("direct", "dropped")}


def test_connections_end_if_their_exit_changes() -> None:
    pod = plan_diff.Pod(WEB, WEB, "w1", ("10.244.1.5",))
    [found] = plan_diff.of_pods(plan(BEFORE, WEB), plan(edited(gateway="bank"), WEB), [pod])
    connections = [
        ("10.244.1.5", "203.0.113.9"),
        ("10.244.1.5", "203.0.113.10"),
        ("10.244.1.5", "198.51.100.1"),
        ("10.244.1.6", "203.0.113.9"),
    ]
    assert found.ends(connections) == 2
    answer = plan_diff.shown([found], [], {0: 2}, "w1")
    assert (answer["connections"], answer["pods"][0]["connections"]) == (2, 2)
    assert plan_diff.shown([found], [], None, "w1")["connections"] is None


def test_addresses_come_go_and_get_other_nodes() -> None:
    assert plan_diff.of_addresses(plan(BEFORE), plan(BEFORE)) == []
    partner, bank = BEFORE.gateways
    after = replace(BEFORE, gateways=(replace(partner, addresses=("172.16.0.51",)), bank))
    rows = plan_diff.of_addresses(plan(BEFORE), plan(after))
    assert [(row["ip"], row["change"]) for row in rows] == [("172.16.0.50", "gone"), ("172.16.0.51", "new")]
    fewer = replace(BEFORE, nodes=(*BEFORE.nodes[:1], replace(BEFORE.nodes[1], labels={}), BEFORE.nodes[2]))
    rows = plan_diff.of_addresses(plan(BEFORE), plan(fewer))
    assert {(row["change"], *row["nodesBefore"], *row["nodesAfter"]) for row in rows} == {
        ("nodes", "g1", "g2", "g1")
    }
    served = plan(BEFORE)
    served = replace(served, egress_ips=tuple(replace(e, master="g2", epoch=1) for e in served.egress_ips))
    assert {row["change"] for row in plan_diff.of_addresses(served, plan(fewer))} == {"master changes"}
