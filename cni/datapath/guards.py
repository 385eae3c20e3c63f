"""The rules that every steered packet passes after routing (forward, postrouting), as nftables rules. Pure.

The guards drop a packet that takes another path than its connection must, so that a rule, route or table that another
program removes makes no leak. The postrouting chains set the source address and let the packet into its tunnel.
:mod:`cni.datapath.steering` gives the packet its mark, and :mod:`cni.datapath.tunnel_port_guard` protects the port of
the tunnels. As in :mod:`cni.datapath.nft_blocks`, no lookup lets a packet out by finding nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..kernel import ids
from ..plan import Plan, PlanEgressIP, PlanNode
from . import own_routing, path_proof, sync_device
from .nft_blocks import (
    ENCAPSULATED,
    KEYWORDS,
    TUNNELS,
    Marks,
    address_of,
    chain,
    dispatch,
    families,
    inner_sources,
    interface_and_source,
    mapping,
)


def guards(plan: Plan, marks: Marks) -> Iterator[str]:
    """Yield the chains that let a steered packet leave by its tunnel or egress interface only."""
    yield chain("forwarded_reply", _forwarded_reply(plan, marks))
    yield chain("forwarded", _forwarded(marks))
    inlets = {f'"{egress.device}"': f"from_{egress.inlet}" for egress in plan.incoming}
    yield mapping("tunnel_forward_to", "ifname", (f"{name} : goto {to}" for name, to in inlets.items()))
    answer = f'iifname "{ids.RETURN_DEVICE}" ct direction reply accept'
    yield chain("tunnel_forward", [answer, "iifname vmap @tunnel_forward_to", "counter drop"])
    slots = {marks.of(egress.slot): f"out_{egress.slot}" for egress in plan.outgoing}
    slots |= {
        marks.leaving(egress.slot): f"out_{egress.slot}" for egress in plan.outgoing if own_routing.of(egress)
    }
    yield dispatch("steered", f"meta mark and {marks.mask}", "mark", slots)
    for egress in plan.incoming:
        yield chain(f"from_{egress.inlet}", _from_tunnel(egress, marks))
    for egress in plan.outgoing:
        yield chain(f"out_{egress.slot}", _out(plan, egress, marks))
        if own_routing.of(egress):
            yield chain(f"exit_{egress.slot}", own_routing.exit_rules(egress))


def _forwarded(marks: Marks) -> Iterator[str]:
    """Yield the rules for packets that are not out of a tunnel; they end the base chain (:mod:`cni.datapath.hooks`)."""
    yield "ct direction reply goto forwarded_reply"
    yield f"meta mark and {marks.mask} != 0 goto steered"
    yield f"{marks.own} counter drop"


def _forwarded_reply(plan: Plan, marks: Marks) -> Iterator[str]:
    """Yield the rules that drop an answer that would leave neither by its tunnel nor to a pod.

    This happens if another program has removed a rule or route of the answer.
    """
    yield f'ct mark and {marks.mask} > {marks.tunneled} oifname != "{ids.RETURN_DEVICE}" counter drop'
    for egress in filter(own_routing.of, plan.outgoing):
        # By its next hop: a pod may be on the link of the egress interface itself.
        if egress.next_hop:
            device, keyword = egress.interface, "ip6" if egress.family == 6 else "ip"
            back = f'iifname "{device}" oifname "{device}" rt {keyword} nexthop {egress.next_hop}'
            yield f"{marks.own} {back} counter drop"
    yield "accept"


def _from_tunnel(egress: PlanEgressIP, marks: Marks) -> Iterator[str]:
    """Yield the rules that accept packets with a mark of the gateway's table, by the egress interface only."""
    device, _ = interface_and_source(egress)
    if device:
        taken_in = f"ct mark and {marks.wide} == {marks.taken_in(egress.inlet)}"
        yield f"ct direction original {taken_in} oifname {device} {own_routing.verdict(egress)}"
    yield "counter drop"


def _out(plan: Plan, egress: PlanEgressIP, marks: Marks) -> Iterator[str]:
    """Yield the rules that accept a slot's packets by its tunnel; on the master, by the egress interface."""
    exits: list[tuple[str, tuple[str, ...], str]] = []
    if plan.me is not None:
        exits.append((f'"{egress.device}"', inner_sources(plan.me, egress), "accept"))
    if plan.serves(egress) and interface_and_source(egress)[0]:
        device, source = interface_and_source(egress)
        exits.append((device, (source,), own_routing.verdict(egress)))
    opened_here = f"ct mark and {marks.mask} == {marks.of(egress.slot)}"
    daddr = f"{KEYWORDS[egress.family]} daddr"
    # Most packets: the connection began by this exit.
    for device, (source, *_), verdict in reversed(exits):
        begun = f"ct reply {daddr} {address_of(source, egress.family)}"
        yield f"{opened_here} oifname {device} {begun} {verdict}"
    for device, sources, verdict in exits:
        # If a connection began when the other exit was valid, it keeps that source address.
        elsewhere = " ".join(f"ct reply {daddr} != {address_of(source, egress.family)}" for source in sources)
        begun = f"oifname {device} ct state established {elsewhere}"
        yield f"meta l4proto tcp {opened_here} {begun} counter reject with tcp reset"
        yield f"{opened_here} oifname {device} {verdict}"
    yield "counter drop"


def leaving(plan: Plan, marks: Marks) -> Iterator[str]:
    """Yield the postrouting chains: source NAT into tunnels, the last check of the source, encapsulation."""
    me = plan.me
    if me is None or not plan.tunnels:
        return
    # Before every CNI's masquerade, which then does not change the connection. Answers, for the way back, open none.
    nat = list(sync_device.nat_rules(plan))
    # A connection that is synced is known by its source, see gateway_agent/policy/egress_node/sync_groups.py.
    nat += [
        f'oifname "{egress.device}" snat {KEYWORDS[egress.family]} to '
        f"{address_of(inner_sources(me, egress)[0], egress.family)}"
        for egress in plan.outgoing
        if egress.sync
    ]
    nat += [
        f"oifname {TUNNELS} snat {KEYWORDS[family]} to {address_of(ids.inner(me.address, family), family)}"
        for family in families(plan)
    ]
    yield chain("nat", nat, "nat hook postrouting priority srcnat - 10")
    others = f"ct mark and {marks.numbers} == 0 oifname != {TUNNELS} accept"
    leave = [others, *sync_device.leave_rules(plan), *_leave(marks)]
    yield chain("leave", leave, "filter hook postrouting priority srcnat + 200")
    slots = {marks.of(egress.slot): f"leave_{egress.slot}" for egress in plan.outgoing}
    taken_in = [f"{marks.from_tunnel} goto leave_taken_in"]
    yield dispatch("leave_steered", f"ct mark and {marks.mask}", "mark", slots, taken_in)
    inlets = {marks.taken_in(egress.inlet): f"leave_from_{egress.inlet}" for egress in plan.incoming}
    yield dispatch("leave_taken_in", f"ct mark and {marks.wide}", "mark", inlets)
    for egress in plan.outgoing:
        into = [f'oifname "{egress.device}" {source} goto encap' for source in _inner(egress, me)]
        yield chain(f"leave_{egress.slot}", [*into, *_leave_outside(egress, marks)])
    for egress in plan.incoming:
        yield chain(f"leave_from_{egress.inlet}", _leave_outside(egress, marks))
    # The outer packet is routed by the inner one's mark: with it, it would find the tunnel again, and with any mark the
    # kernel looks up each packet's route. By its priority it is known as the kernel's own: see
    # :mod:`cni.datapath.tunnel_port_guard`.
    encap = ["tcp flags syn tcp option maxseg size set rt mtu", f"{marks.clear} {ENCAPSULATED}"]
    yield chain("encap", encap)


def _leave(marks: Marks) -> Iterator[str]:
    yield f"ct direction original ct mark and {marks.numbers} != 0 goto leave_steered"
    # Answers only: a socket that is bound to the device sends none.
    answering = f"ct direction reply ct mark and {marks.mask} > {marks.tunneled}"
    yield f'oifname "{ids.RETURN_DEVICE}" {answering} counter goto encap'
    yield f"oifname {TUNNELS} counter drop"


def _inner(egress: PlanEgressIP, me: PlanNode) -> Iterator[str]:
    """Yield the expressions for packets with a source that this node has inside the tunnels."""
    for inner in inner_sources(me, egress):
        yield f"{KEYWORDS[egress.family]} saddr {address_of(inner, egress.family)}"


def _leave_outside(egress: PlanEgressIP, marks: Marks) -> Iterator[str]:
    """Yield the check of the source of packets that leave by the egress interface, after all source NAT.

    If a connection is older than the last change of master, it may have the old address.
    """
    saddr = f"{KEYWORDS[egress.family]} saddr"
    device, source = interface_and_source(egress)
    if device:
        # An interface may encapsulate, and an outer packet is routed by the inner one's mark.
        clear = f"{marks.clear} " if own_routing.of(egress) else ""
        yield path_proof.arrived(f"oifname {device} {saddr} {source}")
        yield f"oifname {device} {saddr} {source} {clear}{own_routing.verdict(egress)}"
    yield "counter drop"
