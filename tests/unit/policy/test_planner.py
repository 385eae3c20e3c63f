"""From the inventory to the plan of one node."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cni.kernel import ids
from cni.plan import (
    Destination,
    Plan,
    PlanEgressIP,
    PlanNode,
    PodIdentity,
    Requirement,
    dumps,
    loads,
)
from gateway_agent.manifests.model import Inventory, Node
from gateway_agent.policy import planner
from gateway_agent.policy.egress_node.readiness import InterfaceFacts
from gateway_agent.policy.planner import Settings

from .small_inventory import NODES, PARTNER, build, egress, inventory, pod, policy, sets


def test_plan_of_a_worker() -> None:
    planned = build(inventory(policy("a")), masters={ids.egress_id("partner", ""): ("g2", 4)})
    assert not planned.problems
    plan = planned.plan
    assert plan.nodes == (
        PlanNode("g1", "172.16.0.7", "fd00::7"), PlanNode("g2", "172.16.0.8"), PlanNode("w1", "172.16.0.21"),
    )  # fmt: skip
    identity = ids.egress_id("partner", "")
    assert plan.egress_ips == (
        PlanEgressIP(
            identity, "partner", "", 1, ids.vni(identity), ("g1", "g2"), master="g2", epoch=4, inlet=0
        ),
    )
    (only,) = plan.policy_sets
    assert (only.number, only.policies, only.egress_ids) == (1, ("a",), (identity,))
    assert only.destinations == (Destination("203.0.113.0/24", identity),)
    assert loads(dumps(plan)) == plan


def test_plan_of_an_egress_node_names_what_it_shows() -> None:
    found = egress(
        build(inventory(), node="g1", addresses={"eth1": "192.0.2.7/24", "eth0": "172.16.0.7/24"}).plan
    )
    assert (found.interface, found.source) == ("eth1", "192.0.2.7")
    without = egress(build(inventory(), node="g1", addresses={"eth0": "172.16.0.7/24"}).plan)
    assert (without.interface, without.source) == ("eth1", "")
    elsewhere = egress(build(inventory(), node="w1", addresses={"eth1": "172.16.0.21/24"}).plan)
    assert (elsewhere.interface, elsewhere.source) == ("", "")


def test_direct_is_the_choice_of_the_gateway() -> None:
    gateway = dataclasses.replace(PARTNER, when_no_gateway="Direct")
    assert egress(build(inventory(gateways=(gateway,))).plan).direct
    assert not egress(build(inventory()).plan).direct


def test_unknown_master_stays_the_last_known_one() -> None:
    identity = ids.egress_id("partner", "")
    first = build(inventory(), masters={identity: ("g1", 3)}).plan
    kept = egress(build(inventory(), previous=first).plan)
    assert (kept.master, kept.epoch) == ("g1", 3)
    lost = egress(build(inventory(), previous=first, masters={identity: ("", 3)}).plan)
    assert (lost.master, lost.epoch) == ("", 3)


def test_master_that_is_no_node_is_none() -> None:
    identity = ids.egress_id("partner", "")
    assert egress(build(inventory(), masters={identity: ("gone", 9)}).plan).master == ""
    first = build(inventory(), masters={identity: ("g1", 3)}).plan
    assert egress(build(inventory(nodes=NODES[1:]), previous=first).plan).master == ""


def test_gateway_that_cannot_be_served_still_takes_its_packets() -> None:
    gateways = (dataclasses.replace(PARTNER, node_selector=(Requirement("role", "In", ("none",)),)),)
    planned = build(
        inventory(policy("a"), gateways=gateways), masters={ids.egress_id("partner", ""): ("g1", 1)}
    )
    (problem,) = planned.problems
    assert (problem.source, problem.path) == ("gateways.yaml", "spec.nodeSelector")
    assert "selects no node" in problem.message
    found = egress(planned.plan)
    assert (found.eligible, found.master) == ((), "")
    assert planned.plan.policy_sets[0].destinations == (Destination("203.0.113.0/24", found.id),)


def test_policy_without_its_gateway_still_takes_its_packets() -> None:
    plan = build(inventory(policy("a", "gone"))).plan
    found = egress(plan, "gone")
    assert (found.eligible, found.master, found.direct) == ((), "", False)
    assert plan.policy_sets[0].destinations == (Destination("203.0.113.0/24", found.id),)


def test_gateways_of_one_tunnel_number() -> None:
    # Found by search: the first 24 bits of the hashes of these names are the same.
    names = ("gateway-1544", "gateway-1962")
    assert len({ids.vni(ids.egress_id(name, "")) for name in names}) == 1
    gateways = tuple(dataclasses.replace(PARTNER, name=name) for name in names)
    planned = build(inventory(gateways=gateways))
    assert [problem.path for problem in planned.problems] == ["metadata.name"]
    older, younger = (egress(planned.plan, name) for name in sorted(names))
    assert (older.eligible, younger.eligible) == (("g1", "g2"), ())
    assert older.device != younger.device


def test_node_without_an_address_of_its_own_is_left_out() -> None:
    planned = build(inventory(nodes=(*NODES, Node("g3", {"role": "egress"}, ("172.16.0.8",), "n"))))
    assert [problem.message for problem in planned.problems] == [
        "node g3 has 172.16.0.8, which is the address of node g2"
    ]
    assert [n.name for n in planned.plan.nodes] == ["g1", "g2", "w1"]
    assert egress(planned.plan).eligible == ("g1", "g2")


def test_a_node_of_the_other_family_is_cut_off_and_says_so() -> None:
    """On every node: the others do without it, and itself it has no tunnel to lead anything into."""
    mixed = inventory(policy("a"), nodes=(*NODES, Node("g3", {"role": "egress"}, ("fd00::9",), "n")))
    others = build(mixed, masters={ids.egress_id("partner", ""): ("g1", 4)})
    assert egress(others.plan).eligible == ("g1", "g2")
    assert [problem.message.partition(",")[0] for problem in others.problems] == [
        "node g3 has no IPv4 address"
    ]
    itself = build(mixed, node="g3", masters={ids.egress_id("partner", ""): ("g1", 4)})
    assert itself.plan.me is None
    assert [problem.source for problem in itself.problems] == ["n", "node g3"]


def test_nodes_with_ipv6_addresses_alone() -> None:
    nodes = tuple(
        dataclasses.replace(node, addresses=(f"fd00::{place}",)) for place, node in enumerate(NODES, 7)
    )
    planned = build(inventory(policy("a"), nodes=nodes))
    assert planned.problems == ()
    assert planned.plan.nodes == (
        PlanNode("g1", "fd00::7", "fd00::7"),
        PlanNode("g2", "fd00::8", "fd00::8"),
        PlanNode("w1", "fd00::9", "fd00::9"),
    )
    assert egress(planned.plan).eligible == ("g1", "g2")


def test_the_plan_says_if_the_kernel_checks_the_sources_of_all_interfaces() -> None:
    six = tuple(
        dataclasses.replace(node, addresses=(f"fd00::{place}",)) for place, node in enumerate(NODES, 7)
    )
    strict = InterfaceFacts(
        up=True, carrier=True, mtu=1500, addresses=("fd00::9/64",), forwarding=True, source_check=1
    )
    settings = Settings("w1", 0x0FF00000, 4799, 1430)
    for facts in (strict, dataclasses.replace(strict, source_check=0)):
        for nodes in (six, NODES):
            planned = planner.build(inventory(policy("a"), nodes=nodes), settings, {"eth0": facts}, {})
            assert planned.plan.source_check == (facts.source_check == 1)


@pytest.mark.parametrize("cluster", [True, False])
def test_a_plan_from_a_cluster_says_that_it_has_every_namespace(cluster: bool) -> None:
    of = dataclasses.replace(inventory(policy("a")), knows_pods=cluster)
    assert build(of).plan.knows_namespaces is cluster


def test_node_that_the_inventory_does_not_know() -> None:
    planned = build(inventory(policy("a")), node="w9")
    assert [problem.source for problem in planned.problems] == ["node w9"]
    assert planned.plan.me is None
    assert sets(planned.plan) == {("a",): 1}


def test_numbers_outlive_changes_and_a_freed_one_is_given_last() -> None:
    first = build(inventory(policy("a"), policy("b"))).plan
    assert sets(first) == {("a",): 1, ("b",): 2, ("a", "b"): 3}
    second = build(inventory(policy("b"), policy("c")), previous=first).plan
    assert sets(second) == {("b",): 2, ("c",): 4, ("b", "c"): 5}
    third = build(inventory(policy("a"), policy("b"), policy("c")), previous=second).plan
    assert {("b",): 2, ("c",): 4, ("b", "c"): 5}.items() <= sets(third).items()
    assert sets(third)["a",] == 1


def numbered(node: str, names: str, previous: Plan | None = None) -> Plan:
    gateways = tuple(dataclasses.replace(PARTNER, name=name) for name in names)
    policies = (policy(f"of-{name}", name) for name in names)
    return build(inventory(*policies, gateways=gateways), node=node, previous=previous).plan


@pytest.mark.parametrize(("node", "field"), [("w1", "slot"), ("g1", "inlet")])
def test_numbers_of_egress_ips_outlive_changes(node: str, field: str) -> None:
    def numbers(plan: Plan) -> dict[str, int]:
        return {e.gateway: getattr(e, field) for e in plan.egress_ips}

    first = numbered(node, "ps")
    assert numbers(first) == {"p": 1, "s": 2}
    second = numbered(node, "nps", first)
    assert numbers(second) == {"p": 1, "s": 2, "n": 3}
    assert numbers(numbered(node, "ns", second)) == {"s": 2, "n": 3}
    assert numbers(numbered(node, "nsw", second))["w"] == 4


def test_two_gateways_on_one_pod_by_destination() -> None:
    gateways = (PARTNER, dataclasses.replace(PARTNER, name="bank"))
    other = policy("b", "bank", "203.0.113.128/25", "10.244.1.0/24")
    plan = build(inventory(policy("a"), other, gateways=gateways)).plan
    both = next(s for s in plan.policy_sets if s.policies == ("a", "b"))
    assert both.destinations == (
        Destination("203.0.113.0/25", egress(plan, "partner").id),
        Destination("203.0.113.128/25", egress(plan, "bank").id),
    )


def test_addresses_of_all_nodes_are_never_sent() -> None:
    wide = dataclasses.replace(policy("a"), destinations=("172.16.0.6/31", "172.16.0.20/31", "10.244.0.0/16"))
    plan = build(inventory(wide)).plan
    assert [each.prefix for each in plan.policy_sets[0].destinations] == ["172.16.0.6/32", "172.16.0.20/32"]


def test_external_addresses_of_nodes_are_never_sent_but_virtual_ones_are() -> None:
    wide = dataclasses.replace(policy("a"), destinations=("203.0.113.60/31", "203.0.113.62/32"))
    known = inventory(wide)
    first, *others = known.nodes
    first = dataclasses.replace(first, external=("203.0.113.60", "203.0.113.62"))
    gateway = dataclasses.replace(
        known.gateways[0], name="other", mode="VirtualIPAddress", addresses=("203.0.113.62",)
    )
    known = dataclasses.replace(known, nodes=(first, *others), gateways=(*known.gateways, gateway))
    [policy_set] = [each for each in build(known).plan.policy_sets if each.policies == ("a",)]
    assert [each.prefix for each in policy_set.destinations] == ["203.0.113.61/32", "203.0.113.62/32"]


def test_identity_of_a_pod() -> None:
    known = PodIdentity("prod", "web-0", {"app": "b"})
    of = Inventory(pods=(known,))
    assert planner.identify(of, "prod", "web-0", {"app": "a"}) is known
    assert planner.identify(of, "test", "web-0", {"app": "a"}) == PodIdentity("test", "web-0", {"app": "a"})
    assert planner.identify(of, "test", "web-0", None) == PodIdentity("test", "web-0", None)


@pytest.mark.parametrize(
    ("uid", "reported", "labels"),
    [
        ("new", {"app": "a"}, {"app": "b"}),
        ("", {"app": "a"}, {"app": "b"}),
        ("old", {"app": "a"}, {"app": "a"}),
        ("old", None, None),
    ],
    ids=["it is that pod", "its uid is not known", "it was another one", "nothing of it is known"],
)
def test_another_pod_of_the_same_name_is_another_pod(uid: str, reported: Any, labels: Any) -> None:
    uids = {("prod", "web-0"): "new"}
    of = Inventory(pods=(PodIdentity("prod", "web-0", {"app": "b"}),), uids=uids, knows_pods=True)
    assert planner.identify(of, "prod", "web-0", reported, uid).labels == labels


@pytest.mark.parametrize(("node", "reported"), [("", True), ("w1", True), ("w2", False)])
def test_a_selected_pod_on_its_nodes_network_is_a_problem(node: str, reported: bool) -> None:
    selected, other = pod("a"), pod(name="other")
    of = dataclasses.replace(
        inventory(policy("a"), policy("b")),
        pods=(selected, other),
        on_host={("prod", "web-0"): node, ("prod", "other"): node},
    )
    found = [p for p in build(of).problems if p.path == "spec.hostNetwork"]
    assert [(p.source, "policy a selects it" in p.message) for p in found] == [
        ("pod prod/web-0", True)
    ] * reported


def test_a_nodes_own_address_is_no_virtual_address() -> None:
    """Nobody serves it: it is a mistake of the gateway, and stays one."""
    wrong = dataclasses.replace(PARTNER, mode="VirtualIPAddress", interface="", addresses=("172.16.0.7",))
    planned = build(inventory(policy("a"), gateways=(wrong,)))
    assert planned.plan.egress_ips[0].eligible == ()
    assert planned.problems
