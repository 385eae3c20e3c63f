"""A virtual address in the status of a node never counts as that node's, for nobody who reads addresses of nodes."""

from __future__ import annotations

import dataclasses

import pytest

from cni.kernel import ids
from cni.plan import Plan
from gateway_agent.manifests.model import Inventory, Node
from gateway_agent.policy import underlay
from gateway_agent.policy.node_addresses import own_only
from gateway_agent.policy.planner import never_sent

from .small_inventory import NODES, PARTNER, build, inventory, policy

VIRTUAL = dataclasses.replace(PARTNER, mode="VirtualIPAddress", interface="", addresses=("172.16.0.50",))
IDENTITY = ids.egress_id("partner", "172.16.0.50")
LISTED = [("172.16.0.50",), ("172.16.0.50", "172.16.0.7"), ("172.16.0.7", "172.16.0.50")]


def said(*addresses: str) -> Inventory:
    """Return the inventory in which g1 is said to have these addresses."""
    nodes = (dataclasses.replace(NODES[0], addresses=addresses), *NODES[1:])
    return inventory(policy("a"), gateways=(VIRTUAL,), nodes=nodes)


def in_force(master: str) -> Plan:
    """Return the plan of before, when g1 was said to have its own address."""
    return build(inventory(policy("a"), gateways=(VIRTUAL,)), masters={IDENTITY: (master, 3)}).plan


@pytest.mark.parametrize("master", ["g1", "g2"])
@pytest.mark.parametrize("listed", LISTED)
def test_a_virtual_address_in_the_status_of_a_node_is_not_the_nodes(
    listed: tuple[str, ...], master: str
) -> None:
    """A kubelet without --node-ip takes the first address; the gateway must not give it up for that.

    The object still names the address when g2 is master already.
    """
    before, masters = in_force(master), {IDENTITY: (master, 4)}
    known = own_only(said(*listed), masters, before)
    planned = build(known, masters=masters, previous=before)
    [egress_ip] = planned.plan.egress_ips
    assert (egress_ip.eligible, egress_ip.master) == (("g1", "g2"), master)
    assert {node.name: node.address for node in planned.plan.nodes}["g1"] == "172.16.0.7"
    [problem] = known.problems
    assert "node g1 reports 172.16.0.50, which is a virtual address in service" in str(problem)
    # While no keeper has spoken yet, too, and in all rounds that follow.
    assert build(own_only(said(*listed), {}, before), previous=before).plan.egress_ips[0].eligible == (
        "g1",
        "g2",
    )
    again = own_only(said(*listed), masters, planned.plan)
    assert build(again, masters=masters, previous=planned.plan).plan == planned.plan


@pytest.mark.parametrize("listed", LISTED)
def test_neither_the_tunnels_nor_the_destinations_inside_take_it_for_the_nodes(
    listed: tuple[str, ...],
) -> None:
    known = own_only(said(*listed), {IDENTITY: ("g1", 4)}, in_force("g1"))
    assert underlay.own_address(known.nodes, "g1") == "172.16.0.7"
    assert "172.16.0.50" not in underlay.others(known.nodes, "w1", (), 32)
    assert "172.16.0.50/32" not in never_sent(known, ())
    assert never_sent(known, ())["172.16.0.7/32"] == "address of a node"


def test_without_a_plan_the_master_that_others_name_counts() -> None:
    assert "172.16.0.50" not in own_only(said(*LISTED[1]), {IDENTITY: ("g1", 4)}, None).nodes[0].addresses


@pytest.mark.parametrize("addresses", [("172.16.0.7",), ("172.16.0.9", "172.16.0.50")])
def test_an_address_that_a_node_had_before_it_became_virtual_is_the_nodes(addresses: tuple[str, ...]) -> None:
    """It is a mistake of the gateway, or of a node that is new, and stays one."""
    before = build(inventory(policy("a"))).plan
    new = Node("g9", {"role": "egress"}, addresses, "nodes.yaml")
    wrong = dataclasses.replace(VIRTUAL, addresses=(addresses[-1],))
    known = own_only(inventory(policy("a"), gateways=(wrong,), nodes=(*NODES[1:], new)), {}, before)
    planned = build(known, previous=before)
    assert planned.plan.egress_ips[0].eligible == ()
    again = own_only(inventory(policy("a"), gateways=(wrong,), nodes=(*NODES[1:], new)), {}, planned.plan)
    assert build(again, previous=planned.plan).plan.egress_ips[0].eligible == ()


@pytest.mark.parametrize("listed", [("172.16.0.50",), ("172.16.0.9", "172.16.0.50")])
def test_a_new_node_does_not_take_an_address_that_is_in_service(listed: tuple[str, ...]) -> None:
    before, masters = in_force("g1"), {IDENTITY: ("g1", 3)}
    new = Node("a-new-one", {"role": "egress"}, listed, "nodes.yaml")
    known = own_only(inventory(policy("a"), gateways=(VIRTUAL,), nodes=(*NODES, new)), masters, before)
    planned = build(known, masters=masters, previous=before)
    [egress_ip] = planned.plan.egress_ips
    assert egress_ip.master == "g1"
    assert {"g1", "g2"} <= set(egress_ip.eligible)
    assert "172.16.0.50" not in {node.address for node in planned.plan.nodes}
    [problem] = known.problems
    assert "node a-new-one reports 172.16.0.50, which is a virtual address in service" in str(problem)


def test_what_no_node_serves_is_left_as_it_is() -> None:
    of = inventory(policy("a"))
    assert own_only(of, {}, in_force("g1")) is of
