"""The gateway's nftables rules as text: what an egress node does with packets from the tunnels.

Every node that can be master has them, so that a takeover changes none of them.
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
    # Counted here and before the tunnel: a difference is what another program drops.
    counted = f"{answering} counter {marks.put('meta', marks.reply)}"
    # Behind the node's own steering, which clears the mark of every answer.
    passing = [f'iifname "{device}" accept' for device in (ids.RETURN_DEVICE, ids.SYNC_DEVICE)]
    routed = [egress for egress in ready if own_routing.of(egress)]
    back = [f"ct direction reply ct mark and {marks.mask} != 0 jump routed_answer"] if routed else []
    yield chain("routed_answer", _routed_answers(routed, marks))
    ingress = [counted, *back, *passing, f"iifname {TUNNELS} goto from_tunnel"]
    yield chain("ingress", ingress, "filter hook prerouting priority dstnat + 20")
    yield from _inbound(ready)
    yield chain("unsolicited", _unsolicited())
    yield dispatch("from_tunnel", "iifname", "ifname", {f'"{e.device}"': f"from_{e.inlet}" for e in ready})
    yield chain("stale", _stale(marks))
    for egress in ready:
        yield chain(f"from_{egress.inlet}", _from_tunnel(plan, egress, marks))
    # Resets and errors by this node itself bear the service's address: outside the tunnel a cloud drops them.
    yield chain("local_reply", [answer, *_errors(ready, marks)], "route hook output priority mangle")
    yield from tcp_pickup.chains(ready)
    yield from _nat(ready, marks)


def _routed_answers(routed: Iterable[PlanEgressIP], marks: Marks) -> Iterator[str]:
    """Yield the rules for answers to a gateway with its own routing: see :mod:`cni.datapath.own_routing`."""
    for egress in routed:
        by = f"iifname {interface_and_source(egress)[0]} ct mark and"
        leaving, here = marks.leaving(egress.slot), marks.of(egress.slot)
        yield f"{by} {marks.wide} == {marks.taken_in(egress.inlet)} {marks.put('meta', leaving)} return"
        yield f"{by} {marks.mask} == {here} {marks.put('meta', here)} return"


def _errors(ready: tuple[PlanEgressIP, ...], marks: Marks) -> Iterator[str]:
    """Yield the rules for errors (ICMP) that this node sends to the outside: they go where its packets go."""
    for egress in filter(own_routing.of, ready):
        leaving = marks.put("meta", marks.leaving(egress.slot))
        of_pods = f"ct mark and {marks.mask} == {marks.of(egress.slot)}"
        of_tunnel = f"ct mark and {marks.wide} == {marks.taken_in(egress.inlet)}"
        for of_it in (of_pods, of_tunnel):
            yield f"ct direction original ct state related {of_it} {leaving}"


def _inbound(ready: tuple[PlanEgressIP, ...]) -> Iterator[str]:
    """Yield the chains and maps that drop what comes unsolicited to a virtual address.

    It is never answered: a reset would end a connection whose entry is on another node. A packet of a connection passes
    one rule, and the number of addresses costs a lookup for new ones. A map is of every address, and has another name
    with other elements, so that it is whole when the chain begins to use it: finding nothing drops.
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
    # Before anybody's DNAT: a whitelisted address opens neither this node's services nor the cluster's.
    yield chain("inbound", unasked, "filter hook prerouting priority mangle")


def _unsolicited() -> Iterator[str]:
    yield "icmp type echo-request accept"
    yield "icmpv6 type echo-request accept"
    # Untracked, and what ARP is to IPv4: the kernel asks for its next hop by the address that it sends from, so
    # without the answer nothing leaves with a virtual address.
    yield "icmpv6 type nd-neighbor-solicit accept"
    yield "icmpv6 type nd-neighbor-advert accept"
    yield "counter drop"


def _from_tunnel(plan: Plan, egress: PlanEgressIP, marks: Marks) -> Iterator[str]:
    if plan.isolated:
        yield "ct state new counter drop"
    # A connection keeps the source address of its first packet, which may have come when another one was right.
    # Connections to this node itself have no address of ours.
    elsewhere = f"ct reply {KEYWORDS[egress.family]} daddr != {interface_and_source(egress)[1]} fib daddr type != local"
    yield f"{CONFIRMED} ct mark and {marks.tunneled} != 0 {elsewhere} goto stale"
    yield marks.take_in(egress.inlet)
    if own_routing.of(egress):
        yield marks.put("meta", marks.leaving(egress.slot))


def _stale(marks: Marks) -> Iterator[str]:
    """Yield the rules that mark a connection as stale, wake the agent, which deletes it, and drop the packet."""
    yield marks.put("ct", marks.stale)
    yield f"limit rate 100/second log group {ids.STALE_GROUP}"
    yield "counter drop"


def _nat(ready: tuple[PlanEgressIP, ...], marks: Marks) -> Iterator[str]:
    """Yield the chains that give a connection its source, and the map from its mark to one of them.

    What leaves by such an interface with the number of no egress IP that uses it is dropped: behind source NAT the
    node's table (``leave_steered``) would do so.
    """
    devices = dict.fromkeys(interface_and_source(egress)[0] for egress in ready)
    numbered = [f"oifname {device} ct mark and {marks.numbers} != 0 goto nat_numbered" for device in devices]
    yield chain("nat", numbered, "nat hook postrouting priority srcnat - 10")
    yield chain("nat_numbered", [f"{marks.from_tunnel} goto nat_taken_in", "goto nat_steered"])
    slots = {marks.of(egress.slot): f"nat_{egress.inlet}" for egress in ready if egress.slot}
    yield dispatch("nat_steered", f"ct mark and {marks.mask}", "mark", slots)
    inlets = {marks.taken_in(egress.inlet): f"nat_{egress.inlet}" for egress in ready}
    yield dispatch("nat_taken_in", f"ct mark and {marks.wide}", "mark", inlets)
    for egress in ready:
        device, source = interface_and_source(egress)
        shown, keyword = f"[{source}]" if egress.family == 6 else source, KEYWORDS[egress.family]
        rules = [
            # In the middle of a connection no other port is of use. If it is taken, the kernel drops the packet.
            f"oifname {device} {MIDDLE} snat {keyword} to {shown}:tcp sport",
            f"oifname {device} snat {keyword} to {source}",
            "counter drop",
        ]
        yield chain(f"nat_{egress.inlet}", rules)
