"""Building blocks of nftables rules: chains, maps, transactions, marks, addresses, as text. Pure.

No lookup in a set or map may let a packet out by finding nothing. While a transaction is being committed, a packet
that passes through the old rules finds the old sets empty, or the new ones not filled yet (seen on Linux 6.18:
one packet in a few thousand replacements at 3,000 packets a second, far more with large interval maps). So a rule that
decides *whether* a packet is ours compares without a set, maps cover the whole address space, and a lookup that finds
nothing drops.

Text from users never gets into rules: prefixes and addresses are parsed here, names of interfaces are checked, and
names of gateways and policies are not used at all.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from ..kernel import ids
from ..plan import Plan, PlanEgressIP, PlanNode

KEYWORDS = {4: "ip", 6: "ip6"}
"""Names of the IP header in nft, by IP version."""
GROUP_MASK = 0xFFFF0000
TUNNELS = f'"{ids.DEVICE_PREFIX}*"'
TAGGED = f"iifgroup and {GROUP_MASK:#x} == {ids.GROUP_BASE:#x}"
UNTAGGED = f"iifgroup and {GROUP_MASK:#x} != {ids.GROUP_BASE:#x}"
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


def dispatch(
    name: str, expression: str, key: str, targets: Mapping[str, str], before: Iterable[str] = ()
) -> str:
    """Return a chain and its map: the value of ``expression`` chooses one of ``targets``; without a target it drops.

    ``before``: rules in front of that.
    """
    elements = (f"{value} : goto {target}" for value, target in targets.items())
    rules = [*before, f"{expression} vmap @{name}_to", "counter drop"]
    return mapping(f"{name}_to", key, elements) + chain(name, rules)


def interface(name: str) -> str:
    """Return ``name`` quoted; an empty text if nft could read ``name`` as more than one name."""
    return f'"{name}"' if re.fullmatch(r"[A-Za-z0-9_.:@-]{1,15}", name) else ""


def own_ports(plan: Plan) -> tuple[int, ...]:
    """Return the ports that our guards look at, in order."""
    return tuple(sorted({port for port in (plan.port, plan.cluster_port, plan.sets_port) if port}))


def not_to(ports: Iterable[int]) -> str:
    """Return the expression for a packet with a transport header and another destination port."""
    return " ".join(f"th dport != {port}" for port in ports)


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
    return plan.serving


def senders(plan: Plan) -> tuple[PlanNode, ...]:
    """Return the other nodes that may send into this node's tunnels and get answers: none if it cannot be master."""
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
        wide = layout.wide(max((egress.inlet for egress in plan.incoming), default=0))
        self.wide = f"{wide:#010x}"
        """The bits that name a tunnel, in the mark of a connection that came out of one."""
        self._beside_wide = f"{wide ^ 0xFFFFFFFF:#010x}"
        self.tunneled = f"{layout.tunneled:#010x}"
        self.numbers = f"{layout.mask & ~layout.tunneled:#010x}"
        self.reply = f"{layout.reply:#010x}"
        self.stale = f"{layout.stale:#010x}"
        self.clear = f"meta mark set meta mark and {self.rest}"
        self.none = f"meta mark and {self.mask} == 0"
        """Match of a packet without a mark of ours."""
        self.foreign = f"ct mark and {self.mask} == 0"
        """Match of a connection that has nothing to do with us. What is not tracked has none."""
        self.own = f"ct mark and {self.numbers} != 0 ct mark and {self.tunneled} == 0"
        """Match of a connection that was opened by one of our slots on this node."""
        self.from_tunnel = f"ct mark and {self.tunneled} != 0"
        """Match of a connection that came out of a tunnel, if its mark has a number."""

    def of(self, number: int) -> str:
        """Return the mark of a slot."""
        return f"{self._layout.number(number):#010x}"

    def of_set(self, number: int) -> str:
        """Return the mark of a policy set, between the bridge and the inet table."""
        return f"{self._layout.policy_set(number):#010x}"

    def taken_in(self, inlet: int) -> str:
        """Return the connection mark of packets out of a tunnel. Compare it by :attr:`wide`."""
        return f"{self._layout.taken_in(inlet):#010x}"

    def take_in(self, inlet: int) -> str:
        """Return the statement that gives a connection the mark of the tunnel that it came out of."""
        return f"ct mark set ct mark and {self._beside_wide} or {self.taken_in(inlet)}"

    def leaving(self, number: int) -> str:
        """Return the packet mark of packets that leave by their gateway's own routing."""
        return f"{self._layout.leaving(number):#010x}"

    def put(self, kind: str, value: str) -> str:
        """Return the statement that sets our bits to ``value``. ``kind``: ``meta`` (packet) or ``ct`` (connection)."""
        return f"{kind} mark set {kind} mark and {self.rest} or {value}"
