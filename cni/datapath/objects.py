"""The node's data path: a plan as kernel objects and (:func:`node_nft`) as nftables rules. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from ..kernel import ids
from ..kernel.state import Address, Fdb, KernelState, Neighbour, Route, Rule, Setting, Vxlan
from ..plan import Plan, PlanNode
from . import (
    hooks,
    lease_port_guard,
    overlay_guard,
    own_routing,
    source_guard,
    sync_device,
    tunnel_port_guard,
)
from .guards import guards, leaving
from .nft_blocks import Marks, families, peers, senders, transaction
from .own_routing import METRIC
from .steering import bridge_chains, inet_chains, routeless

__all__ = ["node_nft", "node_state"]

MAX_ALIAS_BYTES = 255
"""The kernel keeps no more of an interface's alias."""


def node_nft(plan: Plan) -> str:
    """Return the nft transaction that replaces both tables of the node."""
    marks = Marks(plan)
    inet = (
        *hooks.chains(plan, marks),
        *source_guard.chains(plan, marks),
        *overlay_guard.chains(plan, marks),
        *inet_chains(plan, marks),
        *guards(plan, marks),
        *leaving(plan, marks),
        *tunnel_port_guard.chains(plan, marks),
        *lease_port_guard.chains(plan),
    )
    bridge = transaction("bridge", ids.NFT_NODE_BRIDGE, bridge_chains(plan))
    return bridge + transaction("inet", ids.NFT_NODE_INET, inet)


def node_state(plan: Plan) -> KernelState:
    """Return every device, entry, route and rule that should exist on this node.

    A node that is not in the inventory gets no tunnel, but rules and ``unreachable`` routes: its selected
    pods are cut off rather than let out.
    """
    me = plan.me
    tunnels = me is not None and bool(plan.tunnels)
    carried = {egress.device: _carried(plan, {egress.family}) for egress in plan.tunnels} if tunnels else {}
    names = [*carried, ids.RETURN_DEVICE] if tunnels else []
    if tunnels:
        carried[ids.RETURN_DEVICE] = _carried(plan, families(plan))
    synced = bool(names and sync_device.partners(plan))
    return KernelState(
        vxlans=frozenset(_vxlans(plan, me, synced) if me and names else ()),
        settings=frozenset(setting for name in names for setting in _settings(plan, name, carried[name]))
        | frozenset(sync_device.settings(plan) if synced else ()),
        addresses=frozenset(Address(name, ids.DEVICE_ADDRESS, 32) for name in names)
        | frozenset([sync_device.address()] if synced else []),
        fdb=frozenset(_fdb(plan) if names else ()) | frozenset(sync_device.fdb(plan) if synced else ()),
        neighbours=frozenset(_neighbours(plan) if names else ()),
        routes=frozenset((*_routes(plan, bool(names)), *own_routing.routes(plan))),
        rules=frozenset((*_rules(plan), *own_routing.rules(plan))),
    )


def _vxlans(plan: Plan, me: PlanNode, synced: bool) -> Iterator[Vxlan]:
    if synced:
        yield sync_device.vxlan(plan, me)
    for egress in plan.tunnels:
        alias = f"egress-gateway {egress.gateway} {egress.address}".rstrip()[:MAX_ALIAS_BYTES]
        yield Vxlan(egress.device, egress.vni, me.address, plan.port, me.mac, plan.mtu, alias)
    alias = "egress-gateway answers"
    yield Vxlan(ids.RETURN_DEVICE, ids.RETURN_VNI, me.address, plan.port, me.mac, plan.mtu, alias)


def _settings(plan: Plan, device: str, carried: Collection[int]) -> Iterator[Setting]:
    # Loose: answers come from anywhere. The larger of this and ``all`` counts: if ``all`` is 1, 0 would be strict.
    yield Setting(device, "ipv4", "rp_filter", "2" if plan.source_check else "0")
    yield Setting(device, "ipv4", "forwarding", "1")
    if plan.mtu < ids.IPV6_MIN_MTU:
        return
    # No address, so no solicitation and no duplicate detection; no router is believed. By name these come before
    # ``disable_ipv6``, and they are made in this order: a device is silent when it gets IPv6.
    for name, value in (("accept_ra", "0"), ("addr_gen_mode", "1"), ("autoconf", "0")):
        yield Setting(device, "ipv6", name, value)
    yield Setting(device, "ipv6", "disable_ipv6", "0" if 6 in carried else "1")


def _carried(plan: Plan, of: Iterable[int]) -> tuple[int, ...]:
    """Return the IP versions among these that a tunnel device can carry."""
    return tuple(family for family in of if family == 4 or plan.mtu >= ids.IPV6_MIN_MTU)


def _fdb(plan: Plan) -> Iterator[Fdb]:
    for node in senders(plan):
        yield Fdb(ids.RETURN_DEVICE, node.mac, node.address)
    by_name = {node.name: node for node in peers(plan)}
    for egress in plan.outgoing:
        # A master that is no longer eligible serves until another one is known.
        for name in {*egress.eligible, egress.master} & by_name.keys():
            yield Fdb(egress.device, by_name[name].mac, by_name[name].address)


def _neighbours(plan: Plan) -> Iterator[Neighbour]:
    # Both, so that no connection ends with a change of connectionSync, which only virtual addresses have.
    kinds = (False, True) if any(egress.address for egress in plan.egress_ips) else (False,)
    carried = _carried(plan, families(plan))
    for node in senders(plan):
        for family in carried:
            for synced in kinds:
                yield Neighbour(ids.RETURN_DEVICE, ids.inner(node.address, family, synced), node.mac)
    by_name = {node.name: node for node in peers(plan)}
    for egress in plan.outgoing:
        if egress.master in by_name:
            for family in _carried(plan, (egress.family,)):
                yield Neighbour(egress.device, ids.NEXT_HOPS[family], by_name[egress.master].mac)


def _routes(plan: Plan, tunnels: bool) -> Iterator[Route]:
    if tunnels:
        for family in _carried(plan, families(plan)):
            yield Route(family, ids.TABLE_BASE, "unicast", METRIC[family], ids.RETURN_DEVICE)
    refused = routeless(plan)
    for egress in plan.outgoing:
        table = ids.TABLE_BASE + egress.slot
        for family in (4, 6):
            yield Route(family, table, "unreachable", metric=ids.UNREACHABLE_METRIC)
        # Packets of the other family find no route here.
        metric = METRIC[egress.family]
        if plan.serves(egress) and own_routing.of(egress):
            continue
        if plan.serves(egress):
            yield Route(egress.family, table, "throw", metric)
        elif egress.id not in refused:
            yield Route(egress.family, table, "unicast", metric, egress.device, ids.NEXT_HOPS[egress.family])


def _rules(plan: Plan) -> Iterator[Rule]:
    layout = plan.layout
    if plan.tunnels:
        for family in families(plan):
            yield Rule(family, ids.RULE_PRIORITY_BASE, layout.reply, layout.mask, ids.TABLE_BASE)
    for egress in plan.outgoing:
        priority, table = ids.RULE_PRIORITY_BASE + egress.slot, ids.TABLE_BASE + egress.slot
        for family in (4, 6):
            yield Rule(family, priority, layout.number(egress.slot), layout.mask, table)
