"""Which sources no pod may have, and which interfaces are uplinks."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cni.kernel import ids
from cni.plan import Plan, PlanEgressIP, PlanNode, dumps, loads
from gateway_agent.manifests.model import VIRTUAL_IP, Gateway, Inventory, Node
from gateway_agent.policy.egress_node.readiness import InterfaceFacts
from gateway_agent.policy.pods import pod_sources

PLAIN = InterfaceFacts(up=True, carrier=True, mtu=1500, addresses=(), forwarding=True)
EGRESS = PlanEgressIP("1", "partner", "", 1, 7, ("g1",), interface="eth1", source="172.16.0.7")
PLAN = Plan("g1", 0x0FF00000, 4799, 1450, (PlanNode("g1", "10.0.0.1", "fd00::1"),), (EGRESS,))


def test_uplinks_have_a_default_route_or_the_nodes_address_or_are_egress_interfaces() -> None:
    facts = {
        "lo": replace(PLAIN, addresses=("10.0.0.1/32",)),
        "eth0": replace(PLAIN, addresses=("10.0.0.1/24",)),
        "eth1": PLAIN,
        "eth2": replace(PLAIN, uplink=True),
        "eth3": replace(PLAIN, addresses=("fd00::1/64",)),
        "cni0": replace(PLAIN, addresses=("10.244.0.1/24",)),
        ids.RETURN_DEVICE: replace(PLAIN, uplink=True),
        # Somebody leads traffic to a VPN pod by a table of its own.
        "br-pods": replace(PLAIN, uplink=True, bears_pods=True),
        "eth4": replace(PLAIN, uplink=True, bears_pods=True, default_route=frozenset({4})),
    }
    assert pod_sources.uplinks(PLAN, facts) == ("eth0", "eth1", "eth2", "eth3", "eth4")


def test_links_to_nodes_bear_no_pods_and_are_not_ours() -> None:
    near = replace(PLAIN, leads_to_nodes=True)
    facts = {
        "lo": near,
        "eth7": near,
        "eth0": near,
        "eth1": replace(PLAIN, uplink=True, default_route=frozenset({4})),
        "br-pods": replace(near, bears_pods=True),
        ids.RETURN_DEVICE: near,
    }
    assert pod_sources.node_links(facts) == ("eth0", "eth7")


def test_bridges_on_which_selected_pods_are_cut_off_are_named_once() -> None:
    facts = {
        "cni0": PLAIN,
        "br2": replace(PLAIN, bridged_only=frozenset({"v0", "v1", "v2", "v3", "v9"})),
        "br3": replace(PLAIN, bridged_only=frozenset({"v9"})),
    }
    selected = {f"prod/pod-{number}": [f"c{number}", f"v{number}"] for number in range(4)}
    (problem,) = pod_sources.bridged_only(selected, facts)
    assert problem.source == "bridge br2"
    assert problem.message.endswith("prod/pod-0, prod/pod-1, prod/pod-2 and 1 more")


def test_virtual_addresses_and_those_of_nodes_are_reserved_and_garbage_of_masters_is_not() -> None:
    gateway = Gateway("virtual", (), VIRTUAL_IP, addresses=("172.16.0.50",))
    nodes = (Node("g1", {}, ("10.0.0.1", "fd00::1")), Node("w1", {}, ("10.0.0.2",), external=("192.0.2.2",)))
    inventory = Inventory((gateway,), (), nodes)
    facts = {
        "eth0": replace(PLAIN, addresses=("10.0.0.1/24", "10.0.0.99/32", "fe80::1/64", "fd00::99/64")),
        # It is no uplink: the check of what routes back decides about the pods behind it.
        "cni0": replace(PLAIN, addresses=("10.244.0.1/24",)),
    }
    said = ["172.16.0.8", "2001:DB8::1%eth0", "drop; }", "", "10.0.0.0/8"]
    here = {"10.0.0.1", "10.0.0.99", "172.16.0.7", "fd00::1", "fd00::99"}
    expected = sorted(here | {"10.0.0.2", "192.0.2.2", "172.16.0.50", "172.16.0.8", "2001:db8::1"})
    assert pod_sources.reserved(inventory, PLAN, facts, said) == tuple(expected)
    shown = sorted({"172.16.0.7", "172.16.0.8", "172.16.0.50", "2001:db8::1"})
    assert pod_sources.egress_sources(inventory, PLAN, said) == tuple(shown)


@pytest.mark.parametrize("address", ["10.0.0.2", "192.0.2.2"])
def test_an_address_by_which_nodes_are_reached_may_come_from_where_it_routes_back(address: str) -> None:
    """In basic mode it may be what the outside sees, too, and the node sends by it to pods of other nodes."""
    inventory = Inventory((), (), (Node("g2", {}, ("10.0.0.2",), external=("192.0.2.2",)),))
    assert address in pod_sources.reserved(inventory, PLAN, {}, [address, "172.16.0.8"])
    assert address not in pod_sources.egress_sources(inventory, PLAN, [address, "172.16.0.8"])
    assert "172.16.0.8" in pod_sources.egress_sources(inventory, PLAN, [address, "172.16.0.8"])
    virtual = replace(inventory, gateways=(Gateway("virtual", (), VIRTUAL_IP, addresses=(address,)),))
    assert address in pod_sources.egress_sources(virtual, PLAN, [])


def test_ports_and_addresses_of_overlays_are_those_of_other_programs() -> None:
    nodes = (Node("g1", {}, ("10.0.0.1", "fd00::1"), external=("192.0.2.1",)), Node("w1", {}, ("10.0.0.2",)))
    facts = {
        "eth0": replace(PLAIN, addresses=("10.0.0.1/24", "10.0.0.99/32", "fe80::1/64")),
        "cni0": replace(PLAIN, addresses=("10.244.0.1/24",)),
        "flannel.1": replace(
            PLAIN, addresses=("10.244.0.0/32",), overlay_port=8472, overlay_address="10.0.0.1"
        ),
        "evpn": replace(PLAIN, overlay_port=4790, overlay_address="10.255.0.1"),
        "external": replace(PLAIN, overlay_port=4790),
        ids.RETURN_DEVICE: replace(PLAIN, overlay_port=4799, overlay_address="10.0.0.98"),
    }
    assert pod_sources.overlay_ports(facts) == (4790, 8472)
    expected = {"10.0.0.1", "10.0.0.99", "10.255.0.1", "192.0.2.1", "fd00::1"}
    assert set(pod_sources.overlay_addresses(Inventory((), (), nodes), PLAN, facts)) == expected


def test_a_plan_keeps_them_and_an_older_plan_has_none() -> None:
    plan = replace(PLAN, uplinks=("eth0",), reserved_sources=("10.0.0.1",), node_links=("eth7",))
    plan = replace(plan, overlay_ports=(8472,), overlay_addresses=("10.0.0.1",), egress_sources=("10.0.0.2",))
    assert loads(dumps(plan)) == plan
    older = json.loads(dumps(plan))
    del older["uplinks"], older["reserved_sources"], older["node_links"]
    del older["overlay_ports"], older["overlay_addresses"], older["egress_sources"]
    assert loads(json.dumps(older)) == PLAN
