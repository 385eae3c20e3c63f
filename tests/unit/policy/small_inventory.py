"""An inventory of four nodes and few objects, and the plans that follow from it."""

from __future__ import annotations

from collections.abc import Mapping

from cni.plan import (
    Plan,
    PlanEgressIP,
    PodIdentity,
    Requirement,
    Selector,
)
from gateway_agent.manifests.model import BASIC, Gateway, Inventory, Node, Policy
from gateway_agent.policy import planner
from gateway_agent.policy.egress_node.readiness import InterfaceFacts
from gateway_agent.policy.planner import Planned, Settings

EGRESS = (Requirement("role", "In", ("egress",)),)
NODES = (
    Node("g1", {"role": "egress"}, ("172.16.0.7", "fd00::7"), "nodes.yaml"),
    Node("g2", {"role": "egress"}, ("172.16.0.8",), "nodes.yaml"),
    Node("w1", {}, ("172.16.0.21",), "nodes.yaml"),
)
PARTNER = Gateway("partner", EGRESS, BASIC, "eth1", source="gateways.yaml")
SMALL_MASK = 0xF0
"""Mask with room for six numbers."""


def policy(name: str, gateway: str = "partner", *destinations: str) -> Policy:
    selector = Selector((Requirement(name, "Exists"),))
    return Policy(name, gateway, (selector,), destinations or ("203.0.113.0/24",), source="policies.yaml")


def inventory(
    *policies: Policy, gateways: tuple[Gateway, ...] = (PARTNER,), nodes: tuple[Node, ...] = NODES
) -> Inventory:
    return Inventory(gateways, policies, nodes)


def build(
    of: Inventory,
    *,
    node: str = "w1",
    mask: int = 0x0FF00000,
    addresses: Mapping[str, str] | None = None,
    masters: Mapping[str, tuple[str, int]] | None = None,
    previous: Plan | None = None,
    pods: tuple[PodIdentity, ...] = (),
) -> Planned:
    settings = Settings(node, mask, 4799, 1450, ("10.244.0.0/16",))
    facts = {
        name: InterfaceFacts(up=True, carrier=True, mtu=1500, addresses=(address,), forwarding=True)
        for name, address in (addresses or {}).items()
    }
    return planner.build(of, settings, facts, masters or {}, previous, pods)


def pod(*selected_by: str, name: str = "web-0") -> PodIdentity:
    """Return a pod that the policies of these names select."""
    return PodIdentity("prod", name, dict.fromkeys(selected_by, "yes"))


def egress(plan: Plan, gateway: str = "partner") -> PlanEgressIP:
    return next(e for e in plan.egress_ips if e.gateway == gateway)


def sets(plan: Plan) -> dict[tuple[str, ...], int]:
    return {s.policies: s.number for s in plan.policy_sets}
