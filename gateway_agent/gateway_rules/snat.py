"""The gateway's nftables rules as text: NAT, guards and the return path of packets from the tunnels.

Every node that can be master has these rules, so a takeover changes none of them.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator

from cni.datapath import own_routing
from cni.datapath.nft_blocks import (
    CONFIRMED,
    KEYWORDS,
    MIDDLE,
    TUNNELS,
    Marks,
    chain,
    dispatch,
    interface_and_source,
    mapping,
    transaction,
)
from cni.datapath.steering import gaps
from cni.kernel import ids
from cni.plan import Plan, PlanEgressIP

from . import tcp_pickup


def served(plan: Plan) -> frozenset[str]:
    """Return the virtual addresses that this node is master of."""
    return frozenset(egress.address for egress in plan.egress_ips if egress.address and plan.serves(egress))


def gateway_nft(plan: Plan) -> str:
    """Return the nft transaction that replaces the gateway's table, or removes it if this node can serve nothing."""
    ready = tuple(egress for egress in plan.incoming if interface_and_source(egress)[0])
    return transaction("inet", ids.NFT_GATEWAY, _chains(plan, ready, Marks(plan)) if ready else ())


def _chains(plan: Plan, ready: tuple[PlanEgressIP, ...], marks: Marks) -> Iterator[str]:
    # A mark without a number: the connection began with a forged source (cni/datapath/source_guard.py).
    answering = f"ct direction reply ct mark and {marks.mask} > {marks.tunneled}"
    answer = f"{answering} {marks.put('meta', marks.reply)}"
    # Counted here and before the tunnel: the difference is the number of packets that another program drops.
    counted = f"{answering} counter {marks.put('meta', marks.reply)}"
    routed = [egress for egress in ready if own_routing.of(egress)]
    back = [f"ct direction reply ct mark and {marks.mask} != 0 jump routed_answer"] if routed else []
    yield chain("routed_answer", _routed_answers(routed, marks))
    # First what has nothing to do with us.
    others = f"{marks.foreign} iifname != {TUNNELS} accept"
    ingress = [others, counted, *back, f"iifname {TUNNELS} goto from_tunnel"]
    # Behind the node's own steering, which clears the mark of every answer.
    yield chain("ingress", ingress, "filter hook prerouting priority dstnat + 20")
    yield from _inbound(ready)
    yield chain("unsolicited", _unsolicited())
    yield mapping("from_tunnel_to", "ifname", (f'"{e.device}" : goto from_{e.inlet}' for e in ready))
    passing = [f'iifname "{device}" accept' for device in (ids.RETURN_DEVICE, ids.SYNC_DEVICE)]
    yield chain("from_tunnel", ["iifname vmap @from_tunnel_to", *passing, "counter drop"])
    yield chain("stale", _stale(marks))
    for egress in ready:
        yield chain(f"from_{egress.inlet}", _from_tunnel(plan, egress, marks))
    # Resets and errors from this node itself have the service's address as source: outside the tunnel, a cloud drops
    # them.
    yield chain("local_reply", [answer, *_errors(ready, marks)], "route hook output priority mangle")
    yield from tcp_pickup.chains(ready, marks)
    yield from _nat(ready, marks)


def _routed_answers(routed: Iterable[PlanEgressIP], marks: Marks) -> Iterator[str]:
    """Yield the rules for replies to a gateway with its own routing: see :mod:`cni.datapath.own_routing`."""
    for egress in routed:
        by = f"iifname {interface_and_source(egress)[0]} ct mark and"
        leaving, here = marks.leaving(egress.slot), marks.of(egress.slot)
        yield f"{by} {marks.wide} == {marks.taken_in(egress.inlet)} {marks.put('meta', leaving)} return"
        yield f"{by} {marks.mask} == {here} {marks.put('meta', here)} return"


def _errors(ready: tuple[PlanEgressIP, ...], marks: Marks) -> Iterator[str]:
    """Yield the rules for ICMP errors from this node to the outside: they take the route of the egress IP's packets."""
    for egress in filter(own_routing.of, ready):
        leaving = marks.put("meta", marks.leaving(egress.slot))
        of_pods = f"ct mark and {marks.mask} == {marks.of(egress.slot)}"
        of_tunnel = f"ct mark and {marks.wide} == {marks.taken_in(egress.inlet)}"
        for of_it in (of_pods, of_tunnel):
            yield f"ct direction original ct state related {of_it} {leaving}"


def _inbound(ready: tuple[PlanEgressIP, ...]) -> Iterator[str]:
    """Yield the chains and maps that drop unsolicited packets to a virtual address.

    Such a packet is never answered: a reset would end a connection whose entry is on another node. A packet of a known
    connection passes one rule; a new packet costs one lookup, whatever the number of addresses. A map covers every
    address, and its name depends on its elements, so it is complete when the chain starts to use it: a lookup that
    finds nothing drops.
    """
    shown = tuple(sorted({egress.address for egress in ready if egress.address}))
    rules = []
    for version, keyword in KEYWORDS.items():
        addresses = [address for address in map(ipaddress.ip_network, shown) if address.version == version]
        if addresses:
            elements = [f"{address.network_address} : goto unsolicited" for address in addresses]
            elements += [f"{first}-{last} : return" for first, last in gaps(addresses)]
            name = f"inbound{version}_{hashlib.sha256(' '.join(elements).encode()).hexdigest()[:16]}"
            yield mapping(name, f"ipv{version}_addr", elements, interval=True)
            rules += [f"{keyword} daddr vmap @{name}", f"meta nfproto ipv{version} counter drop"]
    if rules:
        yield chain("inbound_new", rules)
    unasked = ["ct state new,invalid,untracked goto inbound_new"] if rules else []
    # Before any DNAT: a packet to a virtual address reaches neither this node's services nor the cluster's.
    yield chain("inbound", unasked, "filter hook prerouting priority mangle")


def _unsolicited() -> Iterator[str]:
    yield "icmp type echo-request accept"
    yield "icmpv6 type echo-request accept"
    # Untracked, and the IPv6 counterpart of ARP: the kernel solicits its next hop from the source address of the
    # packet, so without the answer nothing would leave with a virtual address.
    yield "icmpv6 type nd-neighbor-solicit accept"
    yield "icmpv6 type nd-neighbor-advert accept"
    yield "counter drop"


def _from_tunnel(plan: Plan, egress: PlanEgressIP, marks: Marks) -> Iterator[str]:
    _, shown = interface_and_source(egress)
    if plan.isolated:
        yield "ct state new counter drop"
    leaving = [marks.put("meta", marks.leaving(egress.slot))] if own_routing.of(egress) else []
    source = f"ct reply {KEYWORDS[egress.family]} daddr"
    # Most packets: the connection is known, and has the right address.
    known = f"ct mark and {marks.wide} == {marks.taken_in(egress.inlet)} {source} {shown}"
    yield " ".join((known, *leaving, "accept"))
    # A connection keeps the source address of its first packet, which may have come when another address was valid.
    # Connections to this node itself have no source address of ours.
    elsewhere = f"{source} != {shown} fib daddr type != local"
    yield f"{CONFIRMED} ct mark and {marks.tunneled} != 0 {elsewhere} goto stale"
    yield marks.take_in(egress.inlet)
    yield from leaving


def _stale(marks: Marks) -> Iterator[str]:
    """Yield the rules that mark a connection as stale, drop the packet, and wake the agent to delete the connection."""
    yield marks.put("ct", marks.stale)
    yield f"limit rate 100/second log group {ids.STALE_GROUP}"
    yield "counter drop"


def _nat(ready: tuple[PlanEgressIP, ...], marks: Marks) -> Iterator[str]:
    """Yield the chains for source NAT, and the map from the mark of a connection to its chain.

    A packet is dropped if its number belongs to no egress IP of the interface it leaves by; after source NAT, the
    node's table (``leave_steered``) would drop it.
    """
    devices = dict.fromkeys(interface_and_source(egress)[0] for egress in ready)
    numbered = [f"oifname {device} ct mark and {marks.numbers} != 0 goto nat_steered" for device in devices]
    yield chain("nat", numbered, "nat hook postrouting priority srcnat - 10")
    slots = {marks.of(egress.slot): f"nat_{egress.inlet}" for egress in ready if egress.slot}
    taken_in = [f"{marks.from_tunnel} goto nat_taken_in"]
    yield dispatch("nat_steered", f"ct mark and {marks.mask}", "mark", slots, taken_in)
    inlets = {marks.taken_in(egress.inlet): f"nat_{egress.inlet}" for egress in ready}
    yield dispatch("nat_taken_in", f"ct mark and {marks.wide}", "mark", inlets)
    for egress in ready:
        device, source = interface_and_source(egress)
        shown, keyword = f"[{source}]" if egress.family == 6 else source, KEYWORDS[egress.family]
        rules = [
            # In the middle of a connection only the old port is useful. If that port is taken, the kernel drops the
            # packet.
            f"oifname {device} {MIDDLE} snat {keyword} to {shown}:tcp sport",
            f"oifname {device} snat {keyword} to {source}",
            "counter drop",
        ]
        yield chain(f"nat_{egress.inlet}", rules)
