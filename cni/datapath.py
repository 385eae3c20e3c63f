"""The node's data path: what a plan means in kernel objects and (:func:`node_nft`) in nftables rules. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from .kernel import ids
from .kernel.state import Address, Fdb, KernelState, Neighbour, Route, Rule, Setting, Vxlan
from .plan import Plan, PlanNode
from .ruleset import node_nft

__all__ = ["node_nft", "node_state"]

ALIAS_LIMIT = 255
"""Bytes that the kernel keeps of an interface's alias."""


def node_state(plan: Plan) -> KernelState:
    """Every device, entry, route and rule that should stand on this node.

    A node that is not in the inventory gets no tunnel, but rules and ``unreachable`` routes: its selected
    pods are cut off rather than let out.
    """
    me = plan.endpoint
    tunnels = me is not None and bool(plan.egress_ips)
    names = [*(egress.device for egress in plan.egress_ips), ids.BACK_DEVICE] if tunnels else []
    return KernelState(
        vxlans=frozenset(_vxlans(plan, me) if me and names else ()),
        settings=frozenset(setting for name in names for setting in _settings(name)),
        addresses=frozenset(Address(name, ids.DEVICE_ADDRESS, 32) for name in names),
        fdb=frozenset(_fdb(plan) if names else ()),
        neighbours=frozenset(_neighbours(plan) if names else ()),
        routes=frozenset(_routes(plan, bool(names))),
        rules=frozenset(_rules(plan)),
    )


def _vxlans(plan: Plan, me: PlanNode) -> Iterator[Vxlan]:
    for egress in plan.egress_ips:
        alias = f"egress-gateway {egress.gateway} {egress.address}".rstrip()[:ALIAS_LIMIT]
        yield Vxlan(egress.device, egress.vni, me.address, plan.port, me.mac, plan.mtu, alias)
    alias = "egress-gateway answers"
    yield Vxlan(ids.BACK_DEVICE, ids.BACK_VNI, me.address, plan.port, me.mac, plan.mtu, alias)


def _settings(device: str) -> tuple[Setting, ...]:
    return (
        # Loose: answers come from anywhere. The larger of this and ``all`` counts, so 0 would not be certain.
        Setting(device, "ipv4", "rp_filter", "2"),
        Setting(device, "ipv4", "forwarding", "1"),
        # No router solicitations and listener reports into the tunnel.
        Setting(device, "ipv6", "disable_ipv6", "1"),
    )


def _fdb(plan: Plan) -> Iterator[Fdb]:
    for node in plan.peers:
        yield Fdb(ids.BACK_DEVICE, node.mac, node.address)
        for egress in plan.egress_ips:
            if node.name in egress.eligible:
                yield Fdb(egress.device, node.mac, node.address)


def _neighbours(plan: Plan) -> Iterator[Neighbour]:
    by_name = {node.name: node for node in plan.peers}
    for node in by_name.values():
        yield Neighbour(ids.BACK_DEVICE, node.address, node.mac)
    for egress in plan.egress_ips:
        if egress.master in by_name:
            yield Neighbour(egress.device, ids.NEXT_HOP, by_name[egress.master].mac)


def _routes(plan: Plan, tunnels: bool) -> Iterator[Route]:
    if tunnels:
        yield Route(4, ids.TABLE_BASE, "unicast", device=ids.BACK_DEVICE)
    reachable = {node.name for node in plan.peers}
    for egress in plan.egress_ips:
        table = ids.TABLE_BASE + egress.slot
        for family in (4, 6):
            yield Route(family, table, "unreachable", metric=ids.UNREACHABLE_METRIC)
        if plan.serves(egress):
            yield Route(4, table, "throw")
        elif tunnels and egress.master in reachable:
            yield Route(4, table, "unicast", device=egress.device, via=ids.NEXT_HOP)


def _rules(plan: Plan) -> Iterator[Rule]:
    layout = plan.layout
    if plan.egress_ips:
        yield Rule(4, ids.RULE_PRIORITY_BASE, layout.reply, layout.mask, ids.TABLE_BASE)
    for egress in plan.egress_ips:
        priority, table = ids.RULE_PRIORITY_BASE + egress.slot, ids.TABLE_BASE + egress.slot
        for family in (4, 6):
            yield Rule(family, priority, layout.number(egress.slot), layout.mask, table)
