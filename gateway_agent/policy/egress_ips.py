"""Compute the egress IPs of all gateways: eligible nodes, interface and master of each.

An egress IP that cannot be served is included without an eligible node: packets steered to it are dropped and do not
leave by another address.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from cni.kernel import ids
from cni.plan import Plan, PlanEgressIP, PlanNode, matches

from ..manifests import prefixes
from ..manifests.model import BASIC, VIRTUAL_IP, Gateway, Inventory, Node, Problem, Routing, seniority
from ..manifests.routing import table_fault
from . import precedence
from .egress_node import readiness
from .egress_node.readiness import InterfaceFacts

SELECTOR = "spec.nodeSelector"
"""Field path of the problem that a gateway selects no node."""
Name = tuple[str, str]
"""(gateway, address): identifies an egress IP."""


def of(inventory: Inventory, nodes: Iterable[PlanNode], problems: list[Problem]) -> Iterator[PlanEgressIP]:
    """Yield the egress IPs without slot, master and source, sorted by gateway.

    A gateway has one egress IP for each virtual address, in its order; in basic mode exactly one. A gateway that does
    not exist but is named by a policy has one egress IP, too. ``nodes``: the nodes that tunnels can reach.
    """
    existing = {gateway.name: gateway for gateway in inventory.gateways}
    missing = {p.gateway for p in inventory.policies} - existing.keys()
    gateways = [
        *(existing[name] for name in sorted(existing)),
        *(Gateway(name, (), BASIC) for name in sorted(missing)),
    ]
    # An address and a tunnel number stay with the gateway that had them first, whatever others are created later.
    older = sorted(existing.values(), key=_seniority) + gateways[len(existing) :]
    tunnels = _tunnels(
        [(gateway.name, address) for gateway in older for address in sorted(_addresses(gateway))]
    )
    claims = _address_owners(gateways)
    for gateway in gateways:
        able = _eligible(gateway, inventory.nodes, nodes, problems) if gateway.name in existing else ()
        for address in _addresses(gateway):
            vni, clash = tunnels[gateway.name, address]
            problem = _conflict(gateway, address, clash, claims, inventory.nodes)
            if problem and gateway.name in existing:
                problems.append(problem)
            yield PlanEgressIP(
                ids.egress_id(gateway.name, address), gateway.name, address, 0, vni, () if problem else able,
                direct=gateway.when_no_gateway == "Direct", mode=gateway.mode,
                sync=gateway.connection_sync and gateway.mode == VIRTUAL_IP,
            )  # fmt: skip


def with_masters(
    found: Iterable[PlanEgressIP],
    nodes: Iterable[PlanNode],
    masters: Mapping[str, tuple[str, int]],
    previous: Plan | None,
) -> Iterator[PlanEgressIP]:
    """Yield each egress IP with its master from ``masters``, else with the last known master of ``previous``.

    ``masters``: (node, epoch) by egress id. A master that is no longer eligible is kept until another one is known: it
    forwards until it has handed over. The master is empty if no tunnel reaches it (it is none of ``nodes``) or if no
    node is eligible.
    """
    names = {node.name for node in nodes}
    before = previous.by_id if previous else {}
    for egress in found:
        last = before.get(egress.id, egress)
        node, epoch = masters.get(egress.id, (last.master, last.epoch))
        master = followed(egress, node, names)
        # Most egress IPs of a large cluster do not change, and a copy is the most costly step here.
        same = (master, epoch) == (egress.master, egress.epoch)
        yield egress if same else replace(egress, master=master, epoch=epoch)


def followed(egress: PlanEgressIP, master: str, nodes: Container[str]) -> str:
    """Return ``master`` if it is one of these nodes, to which packets are sent; else an empty text."""
    return master if egress.eligible and master in nodes else ""


def with_sources(
    found: Iterable[PlanEgressIP],
    here: str,
    gateways: Collection[Gateway],
    facts: Mapping[str, InterfaceFacts],
    pod_interfaces: Collection[str],
    tables: Mapping[str, int],
) -> Iterator[PlanEgressIP]:
    """Yield each egress IP with its interface and source address, if the node ``here`` is eligible or the master.

    ``tables``: numbers of this node's routing tables by name.
    """
    by_name = {gateway.name: gateway for gateway in gateways}
    virtual = frozenset(address for each in gateways for address in each.addresses)
    for egress in found:
        gateway = by_name.get(egress.gateway)
        if gateway is None or here not in (*egress.eligible, egress.master):
            yield egress
        else:
            yield _with_source(egress, gateway, facts, pod_interfaces, tables, virtual)


def _with_source(
    egress: PlanEgressIP,
    gateway: Gateway,
    facts: Mapping[str, InterfaceFacts],
    pod_interfaces: Collection[str],
    tables: Mapping[str, int],
    virtual: Collection[str],
) -> PlanEgressIP:
    if gateway.mode == BASIC:
        known = facts.get(gateway.interface)
        shown = replace(egress, interface=gateway.interface, source=known.address if known else "")
    else:
        interface = interface_for(egress.address, gateway.interfaces, facts, pod_interfaces)
        sources = ("", egress.address) if egress.family == 6 else (egress.address, "")
        shown = replace(egress, interface=interface, source=sources[0], source6=sources[1])
    if gateway.routing is None:
        return shown
    return _with_routing(shown, gateway.routing, facts, tables, virtual)


def _with_routing(
    egress: PlanEgressIP,
    routing: Routing,
    facts: Mapping[str, InterfaceFacts],
    tables: Mapping[str, int],
    virtual: Collection[str],
) -> PlanEgressIP:
    """Return the egress IP with the gateway's own routing, if the kernel can have that now.

    The kernel refuses a route by an interface that is down, and one by an address of this node or by a broadcast
    address. ``virtual``: all virtual addresses; each is an address of its master.
    """
    known = facts.get(egress.interface)
    table = tables.get(routing.table_name, 0) if routing.table_name else routing.table
    if table_fault(table):
        table = 0
    hop = routing_hop(routing, egress.family)
    subnets = [subnet for fact in facts.values() for subnet in fact.addresses]
    refused = {*map(readiness.bare, subnets), *_broadcasts(subnets), *virtual}
    length = routing.length6 if egress.family == 6 else routing.length
    if known is None or not known.up or (egress.family == 6 and not known.ipv6) or hop in refused:
        hop = ""
    on_link = prefixes.around(hop, length) if hop and length else ""
    return replace(egress, routed=True, next_hop=hop, on_link=on_link, table=table)


def _broadcasts(subnets: Iterable[str]) -> Iterator[str]:
    """Yield the broadcast addresses of IPv4 subnets; one of 31 or 32 bits has none (RFC 3021)."""
    for span in map(prefixes.span, subnets):
        if span.family == 4 and span.length < prefixes.WIDTH[4] - 1:
            yield prefixes.text(4, span.last)


def routing_hop(routing: Routing, family: int) -> str:
    """Return the next hop for packets of this family; empty if a routing table has it."""
    return next((hop for hop in routing.next_hops if prefixes.number(hop)[0] == family), "")


def interface_for(
    address: str, named: Sequence[str], facts: Mapping[str, InterfaceFacts], pod_interfaces: Collection[str]
) -> str:
    """Return the interface for a virtual address; empty if there is none.

    If the gateway names interfaces (``named``): the first one with a subnet that contains the address, else the first
    one that exists. Otherwise: the interface with the longest subnet that contains the address (ties: by name), else
    the interface of the default route.
    """
    family, number = prefixes.number(address)

    def held(name: str) -> int:
        """Return the prefix length of its longest subnet that contains the address; -1 if there is none."""
        if name == "lo" or name.startswith(ids.DEVICE_PREFIX) or name in pod_interfaces:
            return -1
        spans = map(prefixes.span, facts[name].addresses)
        holding = (s.length for s in spans if s.family == family and s.first <= number <= s.last)
        # A single address, for example on the host side of a pod's veth, is no subnet.
        return max((length for length in holding if length < prefixes.WIDTH[family]), default=-1)

    if named:
        there = [name for name in named if name in facts]
        return next((name for name in there if held(name) >= 0), there[0] if there else "")
    nearest = min(facts, key=lambda name: (-held(name), name), default="")
    if nearest and held(nearest) >= 0:
        return nearest
    return next((name for name in sorted(facts) if family in facts[name].default_route), "")


def _addresses(gateway: Gateway) -> Sequence[str]:
    """Return the addresses of a gateway's egress IPs; an empty text for an egress IP without its own address."""
    return tuple(dict.fromkeys(gateway.addresses)) or ("",) if gateway.mode == VIRTUAL_IP else ("",)


def _seniority(gateway: Gateway) -> tuple[bool, str, str]:
    return seniority(gateway.created, gateway.name)


def _tunnels(names: Sequence[Name]) -> dict[Name, tuple[int, str]]:
    """Return for each egress IP its VNI, and the name of the owner if its preferred VNI is taken (else empty)."""
    owners: dict[int, Name] = {ids.RETURN_VNI: ("the way back", "")}
    for name in names:
        owners.setdefault(ids.vni(ids.egress_id(*name)), name)
    found = {}
    for name in names:
        vni = ids.vni(ids.egress_id(*name))
        clash = "" if owners[vni] == name else " ".join(owners[vni]).strip()
        while owners.setdefault(vni, name) != name:
            # The tunnel will carry no packet, but two devices cannot have the same name.
            vni = vni % 0xFFFFFF + 1
        found[name] = vni, clash
    return found


def _address_owners(gateways: Iterable[Gateway]) -> dict[str, str]:
    """Return the owner of each virtual address: the oldest gateway that names it."""
    claims: dict[str, str] = {}
    for gateway in sorted(gateways, key=_seniority):
        for address in _addresses(gateway):
            claims.setdefault(address, gateway.name)
    return claims


def _eligible(
    gateway: Gateway, nodes: Iterable[Node], placed: Iterable[PlanNode], problems: list[Problem]
) -> tuple[str, ...]:
    """Return the names of the nodes that can be master. If there is none, add a problem."""
    selected = {node.name for node in nodes if matches(gateway.node_selector, node.labels)}
    names = tuple(sorted(selected.intersection(node.name for node in placed)))
    if names:
        return names
    message, hint = "selects only nodes without an address", ""
    if not selected:
        message, hint = "selects no node", "label a Node, or correct the selector"
    dropped = f"gateway {gateway.name}: {message}; its policies' packets have no gateway"
    problems.append(Problem(gateway.source, SELECTOR, dropped, hint))
    return ()


NO_HOSTS: Mapping[str, str] = {
    **precedence.RESERVED,
    "::ffff:0:0/96": "an IPv4 address in IPv6 form, write it as IPv4",
    "64:ff9b::/96": "an IPv4 address behind NAT64",
    "2002::/16": "6to4, which is not used any more",
    "fec0::/10": "site-local, which is not used any more",
}
"""Prefixes in which no machine of a LAN has an address (RFC 4291, RFC 6052, RFC 7526, RFC 3879), with the reason."""


def _conflict(
    gateway: Gateway, address: str, clash: str, claims: Mapping[str, str], nodes: Iterable[Node]
) -> Problem | None:
    """Return the problem because of which no node may serve this egress IP; None if there is none."""
    hint = "use another address" if gateway.mode == VIRTUAL_IP else "give it another name"
    reserved = precedence.holding(NO_HOSTS, address) if address else None
    owner = next((node.name for node in nodes if address in node.addresses), "")
    if gateway.mode == VIRTUAL_IP and not address:
        message = "there is no address"
    elif reserved:
        message = f"{address} cannot be a host's address: {NO_HOSTS[reserved]}"
    elif owner:
        message = f"{address} is the address of node {owner}"
    elif address and claims[address] != gateway.name:
        message = f"{address} is an address of gateway {claims[address]} too, which keeps it"
    elif clash:
        message = f"{address} has the tunnel number of {clash}".lstrip()
    else:
        return None
    led = f"gateway {gateway.name}: {message}; the packets that are steered to it have no gateway"
    return Problem(gateway.source, path_of(gateway, address), led, hint)


def path_of(gateway: Gateway, address: str) -> str:
    """Return the field path of a gateway's egress IP: that of its address, else that of the name."""
    if gateway.mode != VIRTUAL_IP:
        return "metadata.name"
    # The parsed gateway does not record if one address was written as ``ip`` or as a list of one.
    several, place = len(gateway.addresses) > 1, gateway.addresses.index(address) if address else 0
    return "spec.sourceIP.virtualIPAddress." + (f"ips[{place}]" if several else "ip")
