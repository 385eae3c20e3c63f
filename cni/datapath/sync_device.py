"""The device that carries the egress nodes' connection tables to each other. Pure.

The kernel copies each multicast packet that is sent into the device to each partner. The underlay carries unicast
between nodes only, and packets of known nodes only are accepted.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..kernel import ids
from ..kernel.state import Address, Fdb, Setting, Vxlan
from ..plan import Plan, PlanNode


def partners(plan: Plan) -> tuple[PlanNode, ...]:
    """Return the other nodes that can, like this one, be master of an egress IP whose connections are synced."""
    shared = (egress for egress in plan.egress_ips if egress.sync and plan.node in egress.eligible)
    names = {name for egress in shared for name in egress.eligible} - {plan.node}
    me = plan.me
    if me is None:
        return ()
    # The two ends of a tunnel are of one family.
    return tuple(n for n in plan.nodes if n.name in names and (":" in n.address) == (":" in me.address))


def vxlan(plan: Plan, me: PlanNode) -> Vxlan:
    """Return the device."""
    alias = "egress-gateway connection sync"
    return Vxlan(ids.SYNC_DEVICE, ids.SYNC_VNI, me.address, plan.port, me.mac, plan.mtu, alias)


def address() -> Address:
    """Return the device's address, the same on every node."""
    return Address(ids.SYNC_DEVICE, ids.SYNC_ADDRESS, 32)


def settings(plan: Plan) -> Iterator[Setting]:
    """Yield the device's sysctls."""
    # All nodes have the same address on this device, and no route leads back.
    for name, value in (("accept_local", "1"), ("rp_filter", "2")):
        yield Setting(ids.SYNC_DEVICE, "ipv4", name, value)
    if plan.mtu >= ids.IPV6_MIN_MTU:
        yield Setting(ids.SYNC_DEVICE, "ipv6", "disable_ipv6", "1")


def fdb(plan: Plan) -> Iterator[Fdb]:
    """Yield a forwarding entry for each partner."""
    for node in partners(plan):
        yield Fdb(ids.SYNC_DEVICE, ids.FLOOD_MAC, node.address)


def ports(plan: Plan) -> tuple[int, ...]:
    """Return the port that :func:`input_rules` guard; none without partners."""
    return (ids.SYNC_PORT,) if partners(plan) else ()


def input_rules(plan: Plan) -> Iterator[str]:
    """Yield the rules for packets to conntrackd: those that came through the device, and no others.

    :mod:`cni.datapath.tunnel_port_guard` decides which nodes' packets come through the device.
    """
    if not partners(plan):
        return
    channel = f"ip saddr {ids.SYNC_ADDRESS} ip daddr {ids.SYNC_GROUP} udp dport {ids.SYNC_PORT}"
    yield f'iifname "{ids.SYNC_DEVICE}" {channel} accept'
    yield f"udp dport {ids.SYNC_PORT} counter drop"


def nat_rules(plan: Plan) -> Iterator[str]:
    """Yield the rule that keeps the source of conntrackd's packets."""
    if partners(plan):
        yield f'oifname "{ids.SYNC_DEVICE}" accept'


def leave_rules(plan: Plan) -> Iterator[str]:
    """Yield the rule that lets conntrackd's packets into the tunnels.

    conntrackd runs as root and has no authentication, and any user's socket can be bound to the device. The copy of a
    packet that the kernel loops back to this node has no owner any more, so it is dropped.
    """
    if partners(plan):
        yield f'oifname "{ids.SYNC_DEVICE}" meta skuid 0 udp dport {ids.SYNC_PORT} goto encap'
