"""The gateway's nftables rules as text: what an egress node does with packets from the tunnels.

Every node that can be master has them, so that a takeover changes none of them.
"""

from __future__ import annotations

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
    transaction,
)
from cni.kernel import ids
from cni.plan import Plan, PlanEgressIP

from . import tcp_pickup


def served(plan: Plan) -> frozenset[str]:
    """Return the virtual addresses that this node is master of."""
    return frozenset(egress.address for egress in plan.egress_ips if egress.address and plan.serves(egress))


def gateway_nft(plan: Plan) -> str:
    """Return the nft transaction that replaces the gateway's table, or removes it if this node can serve nothing."""
    ready = tuple(egress for egress in plan.egress_ips if interface_and_source(egress)[0])
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
    # Before anybody's DNAT: a whitelisted address opens neither this node's services nor the cluster's.
    yield chain("inbound", _inbound(ready), "filter hook prerouting priority mangle")
    yield chain("unsolicited", _unsolicited())
    yield dispatch("from_tunnel", "iifname", "ifname", {f'"{e.device}"': f"from_{e.slot}" for e in ready})
    yield chain("stale", _stale(marks))
    for egress in ready:
        yield chain(f"from_{egress.slot}", _from_tunnel(plan, egress, marks))
    # Resets and errors by this node itself bear the service's address: outside the tunnel a cloud drops them.
    yield chain("local_reply", [answer, *_errors(ready, marks)], "route hook output priority mangle")
    yield from tcp_pickup.chains(ready)
    yield chain("nat", _nat(ready, marks), "nat hook postrouting priority srcnat - 10")


def _routed_answers(routed: Iterable[PlanEgressIP], marks: Marks) -> Iterator[str]:
    """Yield the rules for answers to a gateway with its own routing: see :mod:`cni.datapath.own_routing`."""
    for egress in routed:
        by = f"iifname {interface_and_source(egress)[0]} ct mark and {marks.mask} =="
        leaving, here = marks.leaving(egress.slot), marks.of(egress.slot)
        yield f"{by} {leaving} {marks.put('meta', leaving)} return"
        yield f"{by} {here} {marks.put('meta', here)} return"


def _errors(ready: tuple[PlanEgressIP, ...], marks: Marks) -> Iterator[str]:
    """Yield the rules for errors (ICMP) that this node sends to the outside: they go where its packets go."""
    for egress in filter(own_routing.of, ready):
        of_it = f"ct mark and {marks.numbers} == {marks.of(egress.slot)}"
        yield f"ct direction original ct state related {of_it} {marks.put('meta', marks.leaving(egress.slot))}"


def _inbound(ready: tuple[PlanEgressIP, ...]) -> Iterator[str]:
    """Yield the rules that drop what comes unsolicited to a virtual address.

    It is never answered: a reset would end a connection whose entry is on another node.
    """
    for egress in ready:
        if egress.address:
            family = "ip6" if ":" in egress.address else "ip"
            address = ipaddress.ip_address(egress.address)
            yield f"{family} daddr {address} ct state new,invalid,untracked goto unsolicited"


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
    yield marks.put("ct", marks.of_tunneled(egress.slot))
    if own_routing.of(egress):
        yield marks.put("meta", marks.leaving(egress.slot))


def _stale(marks: Marks) -> Iterator[str]:
    """Yield the rules that mark a connection as stale, wake the agent, which deletes it, and drop the packet."""
    yield marks.put("ct", marks.stale)
    yield f"limit rate 100/second log group {ids.STALE_GROUP}"
    yield "counter drop"


def _nat(ready: tuple[PlanEgressIP, ...], marks: Marks) -> Iterator[str]:
    for egress in ready:
        device, source = interface_and_source(egress)
        slot = f"ct mark and {marks.numbers} == {marks.of(egress.slot)}"
        shown, keyword = f"[{source}]" if egress.family == 6 else source, KEYWORDS[egress.family]
        # In the middle of a connection no other port is of use. If the port is taken, the kernel drops the packet.
        yield f"oifname {device} {slot} {MIDDLE} snat {keyword} to {shown}:tcp sport"
        yield f"oifname {device} {slot} snat {keyword} to {source}"
