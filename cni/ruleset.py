"""The node's nftables rules as text. Pure.

*Steering* (prerouting) turns an interface's tag and a packet's destination into the mark of a slot. *Guards*
(forward, input, postrouting) drop what takes another way than its connection must, so that a rule, route or
table that somebody removes makes no leak. The rest readies a packet for the tunnel.

No lookup in a set or map may let a packet out by finding nothing. While a transaction is being committed, a packet
that is on its way through the old rules finds the old sets empty, or the new ones not filled yet (seen on Linux 6.18:
one packet in a few thousand replacements at 3,000 packets a second, far more with large interval maps). So what
decides *whether* a packet is ours compares without a set, maps cover the whole address space, and finding nothing
drops.

Text from users never gets in: prefixes and addresses are parsed here, names of interfaces are checked, and
names of gateways and policies are not used at all.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Union

from .kernel import ids
from .plan import Plan, PlanEgressIP, PolicySet, Way

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
GROUP_MASK = 0xFFFF0000
TUNNELS = f'"{ids.DEVICE_PREFIX}*"'
TAGGED = f"iifgroup and {GROUP_MASK:#x} == {ids.GROUP_BASE:#x}"
CONFIRMED = "ct status and confirmed == confirmed"


def node_nft(plan: Plan) -> str:
    """One nft transaction that replaces both tables of the node whole."""
    bridge = transaction("bridge", ids.NFT_NODE_BRIDGE, _bridge_chains(plan))
    return bridge + transaction("inet", ids.NFT_NODE_INET, _inet_chains(plan))


def transaction(family: str, name: str, chains: Iterable[str]) -> str:
    """Text that replaces a table, or removes it where there are no chains.

    ``add`` before ``delete`` because deleting what is not there is an error.
    """
    head = f"add table {family} {name}\ndelete table {family} {name}\n"
    body = "".join(chains)
    return f"{head}table {family} {name} {{\n{body}}}\n" if body else head


def chain(name: str, rules: Iterable[str], hook: str = "") -> str:
    """A chain as text; ``hook`` (``filter hook …``) makes it a base chain."""
    lines = [f"type {hook}; policy accept;"] if hook else []
    return f"\tchain {name} {{\n" + "".join(f"\t\t{line}\n" for line in [*lines, *rules]) + "\t}\n"


def mapping(name: str, key: str, elements: Iterable[str], interval: bool = False) -> str:
    """A map from ``key`` (an nft type) to verdicts, as text."""
    items = ", ".join(elements)
    lines = [f"type {key} : verdict"]
    lines += ["flags interval"] if interval else []
    lines += [f"elements = {{ {items} }}"] if items else []
    return f"\tmap {name} {{\n" + "".join(f"\t\t{line}\n" for line in lines) + "\t}\n"


def dispatch(name: str, expression: str, key: str, targets: Mapping[str, str]) -> str:
    """A chain that goes on in another one by what ``expression`` gives, and else drops; and its map."""
    elements = (f"{value} : goto {target}" for value, target in targets.items())
    return mapping(f"{name}_to", key, elements) + chain(name, [f"{expression} vmap @{name}_to", "counter drop"])


def interface(name: str) -> str:
    """``name`` quoted, or an empty text where nft could take it for more than one name."""
    return f'"{name}"' if re.fullmatch(r"[A-Za-z0-9_.:@-]{1,15}", name) else ""


def way_out(egress: PlanEgressIP) -> tuple[str, str]:
    """Egress interface (quoted) and IPv4 source of an egress IP on this node; empty texts if it has none."""
    name = interface(egress.interface)
    return (name, str(ipaddress.IPv4Address(egress.source))) if name and egress.source else ("", "")


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
        self.clear = f"meta mark set meta mark and {self.rest}"
        self.own = f"ct mark and {self.numbers} != 0 ct mark and {self.tunneled} == 0"
        """The connection was opened by one of our slots on this node."""

    def of(self, number: int) -> str:
        return f"{self._layout.number(number):#010x}"

    def of_tunneled(self, number: int) -> str:
        return f"{self._layout.number(number) | self._layout.tunneled:#010x}"

    def put(self, kind: str, value: str) -> str:
        """``kind`` is ``meta`` or ``ct``."""
        return f"{kind} mark set {kind} mark and {self.rest} or {value}"


# --- steering ----------------------------------------------------------------------------------------------


def _bridge_chains(plan: Plan) -> Iterator[str]:
    """``inet`` cannot see through which port of a bridge a packet came: here its tag becomes a mark."""
    marks = Marks(plan)
    rules = [f"{TAGGED} goto tagged", f"meta mark and {marks.mask} != 0 {marks.clear}"]
    yield chain("tag", rules, "filter hook prerouting priority -300")
    yield dispatch("tagged", "iifgroup", "devgroup", {str(s.group): f"set_{s.number}" for s in plan.policy_sets})
    for policy_set in plan.policy_sets:
        yield chain(f"set_{policy_set.number}", [marks.put("meta", marks.of(policy_set.number))])


def _inet_chains(plan: Plan) -> Iterator[str]:
    marks = Marks(plan)
    yield chain("steer", _steer(marks), "filter hook prerouting priority dstnat + 10")
    groups = {str(s.group): f"set_{s.number}" for s in plan.policy_sets}
    yield chain("tagged", ["ct direction reply goto tagged_answer", "goto tagged_question"])
    yield dispatch("tagged_question", "iifgroup", "devgroup", groups)
    # Answers of a tagged pod go back the way the question came; of a group that stands for nothing not even these.
    yield dispatch("tagged_answer", "iifgroup", "devgroup", dict.fromkeys(groups, "answer"))
    yield chain("answer", [f"{marks.clear} accept"])
    by_mark = {marks.of(s.number): f"set_{s.number}" for s in plan.policy_sets}
    yield dispatch("marked", f"meta mark and {marks.mask}", "mark", by_mark)
    yield from _sets(plan, marks)
    for egress in plan.egress_ips:
        yield chain(f"go_{egress.slot}", _go(egress, marks))
    yield chain("unsteered", [f"meta mark and {marks.mask} != 0 {marks.clear}", f"{marks.own} goto stray"])
    yield chain("stray", _stray())
    yield from _guards(plan, marks)
    yield from _postrouting(plan, marks)


def _steer(marks: Marks) -> Iterator[str]:
    yield f"{TAGGED} goto tagged"
    yield f"ct direction reply {marks.clear} accept"
    # Elsewhere than behind a bridge the mark is not from our bridge table, but somebody else's.
    for kind in ("bridge", "vlan"):
        yield f'meta iifkind "{kind}" meta mark and {marks.mask} != 0 goto marked'
    yield "goto unsteered"


def _sets(plan: Plan, marks: Marks) -> Iterator[str]:
    """The chain of each policy set, and its ways as maps. A map is named by what it holds and never changes."""
    egress_ips = {egress.id: egress for egress in plan.egress_ips}
    written = set()
    for policy_set in plan.policy_sets:
        rules = [marks.clear]
        for version, keyword in ((4, "ip"), (6, "ip6")):
            elements = list(_elements(policy_set, version, egress_ips))
            if elements:
                name = f"ways{version}_{hashlib.sha256(' '.join(elements).encode()).hexdigest()[:16]}"
                if name not in written:
                    written.add(name)
                    yield mapping(name, f"ipv{version}_addr", elements, interval=True)
                rules += [f"{keyword} daddr vmap @{name}", f"meta nfproto ipv{version} counter drop"]
        yield chain(f"set_{policy_set.number}", [*rules, "goto unsteered"])


def _elements(policy_set: PolicySet, version: int, egress_ips: dict[str, PlanEgressIP]) -> Iterator[str]:
    ways = [(network, way) for network, way in _networks(policy_set) if network.version == version]
    for network, way in ways:
        yield f"{network} : {_verdict(egress_ips.get(way.egress_id))}"
    for between in _gaps([network for network, _ in ways]):
        yield f"{between} : goto unsteered"


def _networks(policy_set: PolicySet) -> Iterator[tuple[Network, Way]]:
    for way in policy_set.ways:
        yield ipaddress.ip_network(way.prefix), way


def _gaps(networks: Sequence[Network]) -> Iterator[str]:
    """The ranges between disjoint networks of one family, so that both together are every address."""
    if not networks:
        return
    free = 0
    kind = type(networks[0].network_address)
    for network in sorted(networks, key=lambda network: int(network.network_address)):
        if int(network.network_address) > free:
            yield f"{kind(free)}-{network.network_address - 1}"
        free = int(network.broadcast_address) + 1
    if free < 1 << networks[0].max_prefixlen:
        yield f"{kind(free)}-{kind((1 << networks[0].max_prefixlen) - 1)}"


def _verdict(egress: PlanEgressIP | None) -> str:
    if egress is None:
        return "drop"
    return "goto unsteered" if egress.direct and not egress.master else f"goto go_{egress.slot}"


def _go(egress: PlanEgressIP, marks: Marks) -> Iterator[str]:
    slot = marks.of(egress.slot)
    # A connection keeps the source address of its first packet: it cannot change over to another way.
    yield f"{CONFIRMED} ct mark and {marks.mask} != {slot} goto stray"
    yield "ct state invalid,untracked goto stray"
    yield marks.put("ct", slot)
    yield marks.put("meta", slot)


def _stray() -> Iterator[str]:
    yield "meta l4proto tcp ct state established counter reject with tcp reset"
    yield "counter drop"


# --- guards ------------------------------------------------------------------------------------------------


def _guards(plan: Plan, marks: Marks) -> Iterator[str]:
    yield chain("forward_guard", _forward_guard(plan, marks), "filter hook forward priority filter - 20")
    yield dispatch("from_tunnel", "iifname", "ifname", {f'"{e.device}"': f"from_{e.slot}" for e in plan.egress_ips})
    slots = {marks.of(egress.slot): f"out_{egress.slot}" for egress in plan.egress_ips}
    yield dispatch("steered", f"meta mark and {marks.mask}", "mark", slots)
    for egress in plan.egress_ips:
        yield chain(f"from_{egress.slot}", _from_tunnel(plan, egress, marks))
        yield chain(f"out_{egress.slot}", _out(plan, egress, marks))
    yield chain("input_guard", _input_guard(plan), "filter hook input priority filter - 20")


def _forward_guard(plan: Plan, marks: Marks) -> Iterator[str]:
    # A pod that could speak VXLAN to a gateway would forge its way out by the egress IP.
    yield f"udp dport {plan.port} counter drop"
    yield f'iifname "{ids.BACK_DEVICE}" ct direction original counter drop'
    yield f'iifname "{ids.BACK_DEVICE}" accept'
    yield f"iifname {TUNNELS} goto from_tunnel"
    yield "ct direction reply accept"
    yield f"meta mark and {marks.mask} != 0 goto steered"
    yield f"{marks.own} counter drop"


def _from_tunnel(plan: Plan, egress: PlanEgressIP, marks: Marks) -> Iterator[str]:
    """Only what the gateway's table has taken in, and only out of the egress interface."""
    device, _ = way_out(egress)
    if device:
        taken_in = f"ct mark and {marks.mask} == {marks.of_tunneled(egress.slot)}"
        yield f"ct direction original {taken_in} oifname {device} accept"
    yield "counter drop"


def _out(plan: Plan, egress: PlanEgressIP, marks: Marks) -> Iterator[str]:
    """Where packets with the slot's mark may leave: its tunnel; on the master, the egress interface."""
    exits = []
    if plan.endpoint is not None:
        exits.append((f'"{egress.device}"', plan.endpoint.address))
    if plan.serves(egress) and way_out(egress)[0]:
        exits.append(way_out(egress))
    opened_here = f"ct mark and {marks.mask} == {marks.of(egress.slot)}"
    for device, source in exits:
        # It began where the other exit was right, and keeps that source address.
        elsewhere = f"oifname {device} ct state established ct reply ip daddr != {ipaddress.IPv4Address(source)}"
        yield f"meta l4proto tcp {opened_here} {elsewhere} counter reject with tcp reset"
        yield f"{opened_here} oifname {device} accept"
    yield "counter drop"


def _input_guard(plan: Plan) -> Iterator[str]:
    # An answer that matches no connection must not make this node send a reset by its own address.
    yield f"iifname {TUNNELS} counter drop"
    nodes = ", ".join(str(ipaddress.IPv4Address(node.address)) for node in plan.peers)
    yield f"udp dport {plan.port} meta nfproto ipv6 counter drop"
    yield f"udp dport {plan.port} ip saddr != {{ {nodes} }} counter drop" if nodes else (
        f"udp dport {plan.port} counter drop"
    )
    # A pod may write a node's address into its packets, but they do not come from where that node is.
    yield f"udp dport {plan.port} fib saddr . iif oif missing counter drop"


# --- leaving -----------------------------------------------------------------------------------------------


def _postrouting(plan: Plan, marks: Marks) -> Iterator[str]:
    me = plan.endpoint
    if me is None or not plan.egress_ips:
        return
    # Before every CNI's masquerade, which then leaves the connection alone. Answers, for the way back, open none.
    nat = [f"oifname {TUNNELS} snat ip to {ipaddress.IPv4Address(me.address)}"]
    yield chain("nat", nat, "nat hook postrouting priority srcnat - 10")
    yield chain("leave", _leave(marks), "filter hook postrouting priority srcnat + 200")
    slots = {marks.of(egress.slot): f"leave_{egress.slot}" for egress in plan.egress_ips}
    yield dispatch("leave_steered", f"ct mark and {marks.numbers}", "mark", slots)
    for egress in plan.egress_ips:
        yield chain(f"leave_{egress.slot}", _leave_slot(egress, me.address))
    # The outer packet is routed by the inner one's mark: with it, it would find the tunnel again.
    encap = ["tcp flags syn tcp option maxseg size set rt mtu", marks.clear]
    yield chain("encap", encap)


def _leave(marks: Marks) -> Iterator[str]:
    yield f'oifname "{ids.BACK_DEVICE}" goto encap'
    yield f"ct direction original ct mark and {marks.numbers} != 0 goto leave_steered"
    yield f"oifname {TUNNELS} counter drop"


def _leave_slot(egress: PlanEgressIP, node_address: str) -> Iterator[str]:
    """The last look, behind all source NAT: what outlived a change of master may still have its old address."""
    yield f'oifname "{egress.device}" ip saddr {ipaddress.IPv4Address(node_address)} goto encap'
    device, source = way_out(egress)
    if device:
        yield f"oifname {device} ip saddr {source} accept"
    yield "counter drop"
