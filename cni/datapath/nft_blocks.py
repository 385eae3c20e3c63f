"""Building blocks of nftables rules, and the rules that all our packets pass, as text. Pure.

*Guards* (forward, postrouting) drop what takes another path than its connection must, so that a rule, route or table
that another program removes makes no leak. The rest prepares a packet for the tunnel. :mod:`cni.datapath.steering`
gives the packet its mark; :mod:`cni.datapath.tunnel_port_guard` protects the tunnels' port.

No lookup in a set or map may let a packet out by finding nothing. While a transaction is being committed, a packet
that passes through the old rules finds the old sets empty, or the new ones not filled yet (seen on Linux 6.18:
one packet in a few thousand replacements at 3,000 packets a second, far more with large interval maps). So what
decides *whether* a packet is ours compares without a set, maps cover the whole address space, and finding nothing
drops.

Text from users never gets in: prefixes and addresses are parsed here, names of interfaces are checked, and
names of gateways and policies are not used at all.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from ..kernel import ids
from ..plan import Plan, PlanEgressIP, PlanNode
from . import own_routing, path_proof, sync_device

KEYWORDS = {4: "ip", 6: "ip6"}
"""Names of the IP header in nft, by IP version."""
GROUP_MASK = 0xFFFF0000
TUNNELS = f'"{ids.DEVICE_PREFIX}*"'
TAGGED = f"iifgroup and {GROUP_MASK:#x} == {ids.GROUP_BASE:#x}"
ENCAPSULATED = f"meta priority set meta priority or {ids.ENCAPSULATED:#x}"
MIDDLE = "tcp flags & (fin | syn | rst | ack) != syn"
"""Match of a TCP packet that opens no connection."""
CONFIRMED = "ct status and confirmed == confirmed"


def transaction(family: str, name: str, chains: Iterable[str]) -> str:
    """Return the text that replaces a table, or removes it if there are no chains.

    ``add`` comes before ``delete`` because deleting a table that does not exist is an error.
    """
    head = f"add table {family} {name}\ndelete table {family} {name}\n"
    body = "".join(chains)
    return f"{head}table {family} {name} {{\n{body}}}\n" if body else head


def chain(name: str, rules: Iterable[str], hook: str = "") -> str:
    """Return a chain as text; ``hook`` (``filter hook …``) makes it a base chain."""
    lines = [f"type {hook}; policy accept;"] if hook else []
    return f"\tchain {name} {{\n" + "".join(f"\t\t{line}\n" for line in [*lines, *rules]) + "\t}\n"


def mapping(name: str, key: str, elements: Iterable[str], interval: bool = False) -> str:
    """Return a map from ``key`` (an nft type) to verdicts, as text."""
    items = ", ".join(elements)
    lines = [f"type {key} : verdict"]
    lines += ["flags interval"] if interval else []
    lines += [f"elements = {{ {items} }}"] if items else []
    return f"\tmap {name} {{\n" + "".join(f"\t\t{line}\n" for line in lines) + "\t}\n"


def dispatch(name: str, expression: str, key: str, targets: Mapping[str, str]) -> str:
    """Return a chain that goes to one of ``targets`` by the value of ``expression``, and else drops; and its map."""
    elements = (f"{value} : goto {target}" for value, target in targets.items())
    return mapping(f"{name}_to", key, elements) + chain(
        name, [f"{expression} vmap @{name}_to", "counter drop"]
    )


def interface(name: str) -> str:
    """Return ``name`` quoted; an empty text if nft could take it for more than one name."""
    return f'"{name}"' if re.fullmatch(r"[A-Za-z0-9_.:@-]{1,15}", name) else ""


def from_elsewhere(plan: Plan) -> str:
    """Return the expression for a packet that comes neither by a link to nodes nor by the route back to its source."""
    links = "".join(f"iifname != {name} " for link in plan.node_links if (name := interface(link)))
    return f"{links}fib saddr . iif oif missing"


def interface_and_source(egress: PlanEgressIP) -> tuple[str, str]:
    """Return egress interface (quoted) and source of an egress IP on this node; empty texts if it has none."""
    name = interface(egress.interface)
    source = egress.source6 if egress.family == 6 else egress.source
    return (name, address_of(source, egress.family)) if name and source else ("", "")


@lru_cache(maxsize=1 << 14)
def address_of(text: str, family: int) -> str:
    """Return the canonical form of an address of this family, 4 or 6. Raises :class:`ValueError` if it is none."""
    return str(ipaddress.IPv6Address(text) if family == 6 else ipaddress.IPv4Address(text))


def underlay(node: PlanNode) -> int:
    """Return the IP version of the node's tunnels, 4 or 6."""
    return 6 if ":" in node.address else 4


def peers(plan: Plan) -> tuple[PlanNode, ...]:
    """Return the other nodes that tunnels can lead to: the two ends of a tunnel are of one family."""
    family = underlay(plan.me) if plan.me else 4
    return tuple(node for node in plan.nodes if node.name != plan.node and underlay(node) == family)


def serving(plan: Plan) -> frozenset[str]:
    """Return the names of the nodes that are or can be master of an egress IP."""
    # A master that is not eligible any more serves until another one is known.
    return frozenset(name for egress in plan.egress_ips for name in (*egress.eligible, egress.master))


def senders(plan: Plan) -> tuple[PlanNode, ...]:
    """Return the other nodes that may send into this node's tunnels and get answers: none if it can be no master."""
    return peers(plan) if plan.node in serving(plan) else ()


def inner_sources(me: PlanNode, egress: PlanEgressIP) -> tuple[str, str]:
    """Return the two inner source addresses of this egress IP.

    The first is that of new connections, the second that of connections that were opened before ``connectionSync`` was
    changed.
    """
    new, older = (ids.inner(me.address, egress.family, synced) for synced in (egress.sync, not egress.sync))
    return new, older


def families(plan: Plan) -> tuple[int, ...]:
    """Return the IP versions that tunnels carry: 4, and 6 if there is an egress IP for it."""
    return (4, 6) if any(egress.family == 6 for egress in plan.egress_ips) else (4,)


class Marks:
    """Expressions on the packet mark and the connection mark that test and set only our bits."""

    def __init__(self, plan: Plan) -> None:
        layout = plan.layout
        self._layout = layout
        self.mask = f"{layout.mask:#010x}"
        self.rest = f"{layout.mask ^ 0xFFFFFFFF:#010x}"
        self.tunneled = f"{layout.tunneled:#010x}"
        self.numbers = f"{layout.mask & ~layout.tunneled:#010x}"
        self.reply = f"{layout.reply:#010x}"
        self.stale = f"{layout.stale:#010x}"
        self.clear = f"meta mark set meta mark and {self.rest}"
        self.own = f"ct mark and {self.numbers} != 0 ct mark and {self.tunneled} == 0"
        """Match of a connection that was opened by one of our slots on this node."""

    def of(self, number: int) -> str:
        """Return the mark of a slot or policy set."""
        return f"{self._layout.number(number):#010x}"

    def of_tunneled(self, number: int) -> str:
        """Return the connection mark of what came out of a slot's tunnel."""
        return f"{self._layout.number(number) | self._layout.tunneled:#010x}"

    def leaving(self, number: int) -> str:
        """Return the packet mark of what leaves by its gateway's own routing."""
        return f"{self._layout.leaving(number):#010x}"

    def put(self, kind: str, value: str) -> str:
        """Return the statement that sets our bits to ``value``. ``kind``: ``meta`` (packet) or ``ct`` (connection)."""
        return f"{kind} mark set {kind} mark and {self.rest} or {value}"


# --- guards ------------------------------------------------------------------------------------------------


def guards(plan: Plan, marks: Marks) -> Iterator[str]:
    """Yield the chains that let a steered packet leave by its tunnel or egress interface only."""
    yield chain("forwarded_reply", _forwarded_reply(plan, marks))
    yield chain("forwarded", _forwarded(marks))
    yield chain("tunnel_forward", _tunnel_forward())
    yield dispatch(
        "from_tunnel", "iifname", "ifname", {f'"{e.device}"': f"from_{e.slot}" for e in plan.egress_ips}
    )
    slots = {marks.of(egress.slot): f"out_{egress.slot}" for egress in plan.egress_ips}
    slots |= {
        marks.leaving(egress.slot): f"out_{egress.slot}"
        for egress in plan.egress_ips
        if own_routing.of(egress)
    }
    yield dispatch("steered", f"meta mark and {marks.mask}", "mark", slots)
    for egress in plan.egress_ips:
        yield chain(f"from_{egress.slot}", _from_tunnel(plan, egress, marks))
        yield chain(f"out_{egress.slot}", _out(plan, egress, marks))
        if own_routing.of(egress):
            yield chain(f"exit_{egress.slot}", own_routing.exit_rules(egress))


def _tunnel_forward() -> Iterator[str]:
    """Yield the rules for what came out of a tunnel."""
    yield f'iifname "{ids.RETURN_DEVICE}" ct direction reply accept'
    yield f'iifname "{ids.RETURN_DEVICE}" counter drop'
    yield "goto from_tunnel"


def _forwarded(marks: Marks) -> Iterator[str]:
    """Yield the rules for what came out of no tunnel, at the end of the base chain (:mod:`cni.datapath.hooks`)."""
    yield "ct direction reply goto forwarded_reply"
    yield f"meta mark and {marks.mask} != 0 goto steered"
    yield f"{marks.own} counter drop"


def _forwarded_reply(plan: Plan, marks: Marks) -> Iterator[str]:
    """Yield the rules that drop an answer that would go another way than into its tunnel, or than to a pod.

    A rule or route for it may be missing: another program has removed it.
    """
    yield f'ct mark and {marks.mask} > {marks.tunneled} oifname != "{ids.RETURN_DEVICE}" counter drop'
    for egress in filter(own_routing.of, plan.egress_ips):
        # By its next hop: a pod may be on the link of the egress interface itself.
        if egress.next_hop:
            device, keyword = egress.interface, "ip6" if egress.family == 6 else "ip"
            back = f'iifname "{device}" oifname "{device}" rt {keyword} nexthop {egress.next_hop}'
            yield f"{marks.own} {back} counter drop"
    yield "accept"


def _from_tunnel(plan: Plan, egress: PlanEgressIP, marks: Marks) -> Iterator[str]:
    """Yield the rules that accept what the gateway's table has marked, by the egress interface only."""
    device, _ = interface_and_source(egress)
    if device:
        taken_in = f"ct mark and {marks.mask} == {marks.of_tunneled(egress.slot)}"
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
    for device, sources, verdict in exits:
        # A connection that began when the other exit was right keeps that source address.
        elsewhere = " ".join(f"ct reply {daddr} != {address_of(source, egress.family)}" for source in sources)
        begun = f"oifname {device} ct state established {elsewhere}"
        yield f"meta l4proto tcp {opened_here} {begun} counter reject with tcp reset"
        yield f"{opened_here} oifname {device} {verdict}"
    yield "counter drop"


# --- leaving -----------------------------------------------------------------------------------------------


def leaving(plan: Plan, marks: Marks) -> Iterator[str]:
    """Yield the postrouting chains: source NAT into tunnels, the last check of the source, encapsulation."""
    me = plan.me
    if me is None or not plan.egress_ips:
        return
    # Before every CNI's masquerade, which then leaves the connection alone. Answers, for the way back, open none.
    nat = list(sync_device.nat_rules(plan))
    # A connection that is synced is known by its source, see gateway_agent/policy/egress_node/sync_groups.py.
    nat += [
        f'oifname "{egress.device}" snat {KEYWORDS[egress.family]} to '
        f"{address_of(inner_sources(me, egress)[0], egress.family)}"
        for egress in plan.egress_ips
        if egress.sync
    ]
    nat += [
        f"oifname {TUNNELS} snat {KEYWORDS[family]} to {address_of(ids.inner(me.address, family), family)}"
        for family in families(plan)
    ]
    yield chain("nat", nat, "nat hook postrouting priority srcnat - 10")
    leave = [*sync_device.leave_rules(plan), *_leave(marks)]
    yield chain("leave", leave, "filter hook postrouting priority srcnat + 200")
    slots = {marks.of(egress.slot): f"leave_{egress.slot}" for egress in plan.egress_ips}
    yield dispatch("leave_steered", f"ct mark and {marks.numbers}", "mark", slots)
    for egress in plan.egress_ips:
        yield chain(f"leave_{egress.slot}", _leave_slot(egress, me, marks))
    # The outer packet is routed by the inner one's mark: with it, it would find the tunnel again, and with any mark the
    # kernel looks up each packet's route. By its priority it is known as the kernel's own: see
    # :mod:`cni.datapath.tunnel_port_guard`.
    encap = ["tcp flags syn tcp option maxseg size set rt mtu", f"{marks.clear} {ENCAPSULATED}"]
    yield chain("encap", encap)


def _leave(marks: Marks) -> Iterator[str]:
    # Answers only: a socket that is bound to the device sends none.
    answering = f"ct direction reply ct mark and {marks.mask} > {marks.tunneled}"
    yield f'oifname "{ids.RETURN_DEVICE}" {answering} counter goto encap'
    yield f"ct direction original ct mark and {marks.numbers} != 0 goto leave_steered"
    yield f"oifname {TUNNELS} counter drop"


def _leave_slot(egress: PlanEgressIP, me: PlanNode, marks: Marks) -> Iterator[str]:
    """Yield the check of a slot's sources, behind all source NAT.

    A connection that is older than the last change of master may have its old address.
    """
    saddr = f"{KEYWORDS[egress.family]} saddr"
    for inner in inner_sources(me, egress):
        yield f'oifname "{egress.device}" {saddr} {address_of(inner, egress.family)} goto encap'
    device, source = interface_and_source(egress)
    if device:
        # An interface may encapsulate, and an outer packet is routed by the inner one's mark.
        clear = f"{marks.clear} " if own_routing.of(egress) else ""
        yield path_proof.arrived(f"oifname {device} {saddr} {source}")
        yield f"oifname {device} {saddr} {source} {clear}{own_routing.verdict(egress)}"
    yield "counter drop"
