"""Decide if this node can serve an egress IP now, with the reason if it cannot."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cni.kernel import ids
from cni.plan import PlanEgressIP

from ...manifests import prefixes
from ...manifests.model import BASIC, Routing


@dataclass(frozen=True)
class InterfaceFacts:
    """State of one interface in the kernel."""

    up: bool
    carrier: bool
    mtu: int
    """MTU of the interface, bytes."""
    addresses: tuple[str, ...]
    """IPv4 and IPv6 addresses with prefix lengths, as ``172.16.0.7/24``, the primary one of each family first.
    Virtual addresses are left out."""
    forwarding: bool
    """``net.ipv4.conf.<interface>.forwarding``. If it is off, the kernel drops answers from outside."""
    forwarding6: bool = False
    """``net.ipv6.conf.all.forwarding``. Only ``all`` decides; an interface's own value makes it only a router."""
    default_route: frozenset[int] = frozenset()
    """Families (4, 6) that have a default route by this interface."""
    uplink: bool = False
    """True if a default route uses the interface, in any routing table except ours."""
    bears_pods: bool = False
    """True if the interface is a bridge with the host-side interface of a pod as a port."""
    bridged_only: frozenset[str] = frozenset()
    """Host-side interfaces of pods that are ports of this bridge, if no route uses it and the kernel passes its frames
    to the hooks of IP (``bridge-nf-call-iptables``)."""
    source_check: int = 0
    """``net.ipv4.conf.all.rp_filter``. The kernel uses the larger of this and the interface's own value."""
    rp_filter: int = 0
    """Effective ``rp_filter`` of this interface: the larger of ``all`` and its own value."""
    src_valid_mark: bool = False
    """True if ``src_valid_mark`` is on, here or for all: the source check then uses the route of the packet's mark."""
    foreign: frozenset[str] = frozenset()
    """Virtual addresses that another program has configured on the interface."""
    arp_ignore: int = 0
    """The larger of ``net.ipv4.conf.all.arp_ignore`` and the interface's own value, which the kernel uses."""
    arp_filtered: bool = False
    """True if ``arp_filter`` is on and no route to machines of its LAN uses this interface: then the kernel does not
    answer their ARP requests by it."""
    ipv6: bool = True
    """True if ``net.ipv6.conf.<interface>.disable_ipv6`` is off."""
    asks6: bool = True
    """True if the kernel can ask IPv6 neighbours: it has a link-local address to ask by, or the link asks none."""
    leads_to_nodes: bool = False
    """True if, for another node, no route is more specific than one by this interface (any metric, any table)."""
    overlay_port: int = 0
    """UDP port at which it takes packets of an overlay (VXLAN, Geneve); 0: it is no such device."""
    overlay_address: str = ""
    """Address at which it takes them; empty: at all addresses of the node."""
    next_hops: frozenset[str] = frozenset()
    """Routers that routes by this interface use as next hop, IPv4 and IPv6."""

    @property
    def address(self) -> str:
        """Return the primary IPv4 address; empty if there is none."""
        return next((bare(address) for address in self.addresses if ":" not in address), "")


def bare(address: str) -> str:
    """Return the address without its prefix length."""
    return address.partition("/")[0]


def unready(
    egress: PlanEgressIP,
    interface: str,
    facts: Mapping[str, InterfaceFacts],
    silent_upstream: Sequence[str] = (),
    named: Sequence[str] = (),
    underlay: int = 4,
    silent_hops: Sequence[str] = (),
    path: str = "",
    routing: Routing | None = None,
) -> str:
    """Return the reason why this node cannot be master of ``egress``; empty if it can.

    ``interface``: in basic mode the interface that the gateway names, in virtual-IP mode the chosen one; empty if there
    is none. ``silent_upstream``: upstream addresses that do not answer. ``named``: interfaces that the gateway allows
    in virtual-IP mode. ``underlay``: family of the tunnels' outer packets, 4 or 6.
    ``silent_hops``: next hops that do not answer. ``path``: why packets would not leave by the interface, or empty.
    ``routing``: the gateway's own, if it has one.
    """
    if not interface and egress.mode != BASIC:
        return _nowhere(egress, named)
    return (
        interface_fault(egress, interface, facts, underlay)
        or _no_next_hop(egress, interface, routing)
        or path
        or _silent(interface, silent_hops, silent_upstream)
    )


def interface_fault(
    egress: PlanEgressIP, interface: str, facts: Mapping[str, InterfaceFacts], underlay: int = 4
) -> str:
    """Return the fault of an interface or its settings that keeps packets or answers from passing; empty if none."""
    known = facts.get(interface)
    if known is None:
        return f"interface {interface} does not exist"
    if egress.mode == BASIC:
        wrong = _wrong_basic(egress, interface, known)
    else:
        wrong = _wrong_virtual(egress, facts) or _unanswered(egress, interface, known)
    return (
        _without_link(interface, known)
        or wrong
        or _not_forwarding(egress, interface, known)
        or ("" if egress.family == 6 or takes_ipv4(facts, underlay == 6 or egress.sync) else UNROUTED)
        or _refused_answers(egress, interface, known)
    )


def _without_link(interface: str, known: InterfaceFacts) -> str:
    if not known.up:
        return f"interface {interface} is down"
    return "" if known.carrier else f"interface {interface} has no carrier"


def _not_forwarding(egress: PlanEgressIP, interface: str, known: InterfaceFacts) -> str:
    if egress.family == 6 and not known.forwarding6:
        return "this node does not forward IPv6: sysctl -w net.ipv6.conf.all.forwarding=1"
    if egress.family == 4 and not known.forwarding:
        return f"interface {interface} does not forward: sysctl -w net.ipv4.ip_forward=1"
    return ""


def silent_hop(interface: str, hops: Sequence[str]) -> str:
    """Return the reason for next hops that do not answer; empty if there is none."""
    return f"next hop {', '.join(hops)} does not answer on {interface}" if hops else ""


def _silent(interface: str, hops: Sequence[str], upstream: Sequence[str]) -> str:
    if hops:
        return silent_hop(interface, hops)
    return f"upstream {', '.join(upstream)} does not answer" if upstream else ""


STRICT = 1
"""Value of ``rp_filter`` with which a packet is accepted only by the interface of the route to its source."""


def _refused_answers(egress: PlanEgressIP, interface: str, known: InterfaceFacts) -> str:
    """Return why the kernel drops replies from outside on arrival; empty if it accepts them.

    Replies have the mark that leads into a tunnel, so with ``src_valid_mark`` a strict filter drops them all. With the
    gateway's own routing, that mark leads back to the interface, and without ``src_valid_mark`` the main table decides.
    """
    if egress.family != 4:
        return ""
    drops, setting = f"interface {interface} drops answers", f"sysctl -w net.ipv4.conf.{interface}"
    if egress.routed and known.rp_filter and not known.src_valid_mark:
        return f"{drops}, rp_filter is on and src_valid_mark is off: {setting}.src_valid_mark=1"
    if not egress.routed and known.rp_filter == STRICT and known.src_valid_mark:
        return f"{drops}, rp_filter is 1 and src_valid_mark is on: {setting}.rp_filter=2"
    return ""


def _no_next_hop(egress: PlanEgressIP, interface: str, routing: Routing | None) -> str:
    """Return why the gateway's own next hop cannot be used; empty if it can, or if a routing table has it."""
    if not egress.routed or egress.table or egress.next_hop:
        return ""
    if routing and routing.table_name:
        hint = "give it a number in /etc/iproute2/rt_tables, or use spec.routing.table"
        return f"this node has no table {routing.table_name!r} with routes to the outside: {hint}"
    return (
        "the next hop of spec.routing is an address of this node, a virtual or a broadcast address, or cannot be "
        f"reached on {interface}"
    )


UNROUTED = (
    "the kernel drops IPv4 packets out of the tunnels: net.ipv4.conf.all.rp_filter is on, and this node has no IPv4 "
    "default route"
)


def source_check(facts: Mapping[str, InterfaceFacts]) -> bool:
    """Return True if the kernel checks IPv4 sources on the tunnels regardless of the tunnels' own setting.

    The kernel uses the larger of ``all`` and a device's own ``rp_filter``. If ``all`` is on, the loose check is the
    least that a tunnel can have. Otherwise the check is off on tunnels: answers out of a tunnel come from addresses
    that this node may have no route to.
    """
    return any(fact.source_check for fact in facts.values())


def takes_ipv4(facts: Mapping[str, InterfaceFacts], derived: bool) -> bool:
    """Return True if the kernel accepts IPv4 packets that come out of the tunnels.

    ``derived``: some of their sources are no node's address, so only a default route leads to them. This is so over an
    IPv6 underlay and for synced connections.
    """
    checked = derived and source_check(facts)
    return not checked or any(4 in fact.default_route for fact in facts.values())


def _nowhere(egress: PlanEgressIP, named: Sequence[str]) -> str:
    if named:
        return f"no interface for {egress.address}: there is no {' and no '.join(named)}"
    return (
        f"no interface for {egress.address}: none has a subnet that holds it, and there is no IPv{egress.family} "
        "default route"
    )


def _wrong_basic(egress: PlanEgressIP, interface: str, known: InterfaceFacts) -> str:
    if not known.address:
        return f"interface {interface} has no IPv4 address"
    if known.address != egress.source:
        return f"interface {interface} has just got address {known.address}"
    return ""


def _wrong_virtual(egress: PlanEgressIP, facts: Mapping[str, InterfaceFacts]) -> str:
    holders = sorted(name for name, known in facts.items() if egress.address in known.foreign)
    if holders:
        return f"{egress.address} is configured on {', '.join(holders)} by another program"
    routed = sorted(name for name, known in facts.items() if egress.address in known.next_hops)
    if routed:
        return f"{egress.address} is the next hop of this node's routes by {', '.join(routed)}: use another address"
    subnets = (subnet for name in sorted(facts) for subnet in facts[name].addresses)
    return next((reason for subnet in subnets if (reason := _no_host(egress.address, subnet))), "")


def _no_host(address: str, subnet: str) -> str:
    """Return why no machine can have ``address`` in this subnet; empty if one can, or if it is not in the subnet.

    A subnet of two addresses (RFC 3021, RFC 6164) or of one address has neither a network nor a broadcast address.
    """
    family, number = prefixes.number(address)
    span = prefixes.span(subnet)
    if family != span.family or span.length > prefixes.WIDTH[family] - 2:
        return ""
    if number == span.first:
        kind = "network address" if family == 4 else "anycast address of the routers"
    elif number == span.last and family == 4:
        kind = "broadcast address"
    else:
        return ""
    return f"{address} is the {kind} of the subnet of {subnet}: use another address"


def _unanswered(egress: PlanEgressIP, interface: str, known: InterfaceFacts) -> str:
    """Return the reason why the kernel answers no ARP or ND request for the address, or sends none; empty if it does.

    See ``arp_ignore`` and ``arp_filter`` in the kernel's ip-sysctl. With ``arp_ignore`` = 3 the kernel does not answer
    for an address of scope host, which a virtual address has if its interface has no other address. With 2 it answers
    only if the sender and the address are in the same subnet.
    """
    if egress.family == 6:
        if not known.ipv6:
            return (
                f"interface {interface} has IPv6 disabled: sysctl -w net.ipv6.conf.{interface}.disable_ipv6=0"
            )
        missing = "no link-local address, or another machine has it: the kernel cannot ask IPv6 neighbours"
        return "" if known.asks6 else f"interface {interface} has {missing}"
    unanswered = f"the kernel answers no ARP request for {egress.address} on {interface}"
    if known.arp_filtered:
        hint = f"sysctl -w net.ipv4.conf.all.arp_filter=0 net.ipv4.conf.{interface}.arp_filter=0"
        return f"{unanswered}, arp_filter is on and its LAN is not routed by it: {hint}"
    outside = not any(_holds(subnet, egress.address) for subnet in known.addresses)
    ignored = {0: False, 1: False, 2: outside, 3: not known.address}
    if not ignored.get(known.arp_ignore, True):
        return ""
    hint = f"sysctl -w net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.{interface}.arp_ignore=0"
    return f"{unanswered}, arp_ignore is {known.arp_ignore}: {hint}"


def _holds(subnet: str, address: str) -> bool:
    family, number = prefixes.number(address)
    span = prefixes.span(subnet)
    return family == span.family and span.first <= number <= span.last


def tunnel_mtu(facts: Mapping[str, InterfaceFacts], node_address: str, leaving: Collection[str] = ()) -> int:
    """Return the MTU of the tunnel devices, bytes: the underlay's MTU minus the VXLAN overhead.

    ``leaving``: interfaces by which packets to other nodes leave; the smallest MTU counts. If none is known: the MTU of
    the interface with this node's address, loopback excepted; else 1500.
    """
    bearing = (
        name for name, fact in facts.items() if name != "lo" and node_address in map(bare, fact.addresses)
    )
    known = [name for name in leaving if name in facts and name != "lo"] or list(bearing)[:1]
    underlay = min((facts[name].mtu for name in known), default=1500)
    return underlay - ids.VXLAN_OVERHEAD[6 if ":" in node_address else 4]
