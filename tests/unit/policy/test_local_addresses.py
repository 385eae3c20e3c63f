"""Addresses of this node that selected pods reach by their gateway only."""

from __future__ import annotations

from dataclasses import replace

from gateway_agent.policy.egress_node.readiness import InterfaceFacts
from gateway_agent.policy.local_addresses import outside

from .small_inventory import NODES, PARTNER, inventory, policy

GATEWAY = replace(PARTNER, mode="VirtualIPAddress", interface="", addresses=("172.16.0.50",))


def on(*addresses: str, bears_pods: bool = False) -> InterfaceFacts:
    return InterfaceFacts(
        up=True, carrier=True, mtu=1500, addresses=addresses, forwarding=True, bears_pods=bears_pods
    )


def test_what_no_object_and_no_cluster_network_names_is_outside() -> None:
    nodes = (replace(NODES[0], external=("198.51.100.7",), pod_cidrs=("10.244.1.0/24",)), *NODES[1:])
    known = inventory(policy("a"), gateways=(GATEWAY,), nodes=nodes)
    facts = {
        "eth0": on(f"{NODES[0].addresses[0]}/24", "198.51.100.7/32", "192.0.2.9/24", "fe80::1/64"),
        "eth1": on("172.16.0.50/24", "2001:db8::9/64"),
        "flannel.1": on("10.244.1.0/32"),
        "lo": on("127.0.0.1/8", "::1/128", "203.0.113.9/32"),
        "egw-abc": on("192.0.2.77/32"),
        "cni0": on("10.88.0.1/16", bears_pods=True),
    }
    assert list(outside(known, (), facts)) == [
        ("eth0", "192.0.2.9"),
        ("eth1", "2001:db8::9"),
        ("lo", "203.0.113.9"),
    ]
    assert list(outside(known, ("192.0.2.0/24", "2001:db8::/32", "203.0.113.9/32"), facts)) == []
