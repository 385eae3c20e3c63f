"""The egress IPs of all gateways: which nodes can serve them, by which interface, and which one does.

Whatever cannot be served is still among them, without a node that could be its master: what is led to it is dropped
and does not leave by another address.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from cni.kernel import ids
from cni.plan import Plan, PlanEgressIP, PlanNode, matches

from ..manifests import prefixes
from ..manifests.model import BASIC, VIRTUAL_IP, Gateway, Inventory, Node, Problem
from . import precedence
from .readiness import InterfaceFacts

SELECTOR = "spec.nodeSelector"
"""Path of the problems that say that a gateway finds no node."""
Name = tuple[str, str]
"""Gateway and address: what an egress IP is known by."""


def of(inventory: Inventory, nodes: Iterable[PlanNode], problems: list[Problem]) -> Iterator[PlanEgressIP]:
    """One for each virtual address of a gateway, in its order, or one for it all in basic mode; by name of the gateway.

    So too for gateways that do not exist but have a policy. Without slot, master and source. ``nodes``: those that
    tunnels can lead to.
    """
    existing = {gateway.name: gateway for gateway in inventory.gateways}
    missing = {p.gateway for p in inventory.policies} - existing.keys()
    gateways = [
        *(existing[name] for name in sorted(existing)),
        *(Gateway(name, (), BASIC) for name in sorted(missing)),
    ]
    tunnels = _tunnels(
        [(gateway.name, address) for gateway in gateways for address in sorted(_addresses(gateway))]
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


def with_master(
    egress: PlanEgressIP,
    nodes: Iterable[PlanNode],
    masters: Mapping[str, tuple[str, int]],
    previous: Plan | None,
) -> PlanEgressIP:
    """With the node that is master by ``masters``, else with the last known one.

    A master that is not eligible any more stays until another is known: it serves until it has handed over. But to
    what is none of ``nodes`` no tunnel leads, and where no node is eligible nobody may serve.
    """
    last = next((e for e in previous.egress_ips if e.id == egress.id), egress) if previous else egress
    node, epoch = masters.get(egress.id, (last.master, last.epoch))
    return replace(egress, master=followed(egress, node, nodes), epoch=epoch)


def followed(egress: PlanEgressIP, master: str, nodes: Iterable[PlanNode]) -> str:
    """``master``, where packets are led to it; else empty."""
    return master if egress.eligible and any(node.name == master for node in nodes) else ""


def with_source(
    egress: PlanEgressIP,
    here: str,
    gateways: Iterable[Gateway],
    facts: Mapping[str, InterfaceFacts],
    pod_interfaces: Collection[str],
) -> PlanEgressIP:
    """With the egress interface and the address that it shows, where this node is eligible or still the master."""
    gateway = next((gateway for gateway in gateways if gateway.name == egress.gateway), None)
    if gateway is None or here not in (*egress.eligible, egress.master):
        return egress
    if gateway.mode == BASIC:
        known = facts.get(gateway.interface)
        return replace(egress, interface=gateway.interface, source=known.address if known else "")
    interface = interface_for(egress.address, gateway.interfaces, facts, pod_interfaces)
    if egress.family == 6:
        return replace(egress, interface=interface, source6=egress.address)
    return replace(egress, interface=interface, source=egress.address)


def interface_for(
    address: str, named: Sequence[str], facts: Mapping[str, InterfaceFacts], pod_interfaces: Collection[str]
) -> str:
    """Where a virtual address is to stand; empty where it can stand nowhere.

    The first of the ``named`` interfaces that holds it in a subnet, else the first of them that exists. Where none is
    named: the interface with the longest subnet that holds it, then by name; else the one of the default route.
    """
    family, number = prefixes.number(address)

    def held(name: str) -> int:
        """Length of the longest of its subnets that holds the address; -1: none does."""
        if name == "lo" or name.startswith(ids.DEVICE_PREFIX) or name in pod_interfaces:
            return -1
        spans = map(prefixes.span, facts[name].addresses)
        holding = (s.length for s in spans if s.family == family and s.first <= number <= s.last)
        # An address that stands alone, as on the host's side of a pod's veth, is no subnet.
        return max((length for length in holding if length < prefixes.WIDTH[family]), default=-1)

    if named:
        there = [name for name in named if name in facts]
        return next((name for name in there if held(name) >= 0), there[0] if there else "")
    nearest = min(facts, key=lambda name: (-held(name), name), default="")
    if nearest and held(nearest) >= 0:
        return nearest
    return next((name for name in sorted(facts) if family in facts[name].default_route), "")


def _addresses(gateway: Gateway) -> Sequence[str]:
    """Of a gateway's egress IPs; an empty text for one that has no address of its own."""
    return tuple(dict.fromkeys(gateway.addresses)) or ("",) if gateway.mode == VIRTUAL_IP else ("",)


def _tunnels(names: Sequence[Name]) -> dict[Name, tuple[int, str]]:
    """For each egress IP its VNI, and in words who has the one that it should have."""
    owners: dict[int, Name] = {ids.RETURN_VNI: ("the way back", "")}
    for name in names:
        owners.setdefault(ids.vni(ids.egress_id(*name)), name)
    found = {}
    for name in names:
        vni = ids.vni(ids.egress_id(*name))
        clash = "" if owners[vni] == name else " ".join(owners[vni]).strip()
        while owners.setdefault(vni, name) != name:
            # It will carry nothing, but two devices cannot have one name.
            vni = vni % 0xFFFFFF + 1
        found[name] = vni, clash
    return found


def _address_owners(gateways: Iterable[Gateway]) -> dict[str, str]:
    """For each virtual address the gateway that has it: of several the first."""
    claims: dict[str, str] = {}
    for gateway in gateways:
        for address in _addresses(gateway):
            claims.setdefault(address, gateway.name)
    return claims


def _eligible(
    gateway: Gateway, nodes: Iterable[Node], placed: Iterable[PlanNode], problems: list[Problem]
) -> tuple[str, ...]:
    """Names of the nodes that can be master; none, and a problem, where the gateway finds none."""
    selected = {node.name for node in nodes if matches(gateway.node_selector, node.labels)}
    names = tuple(sorted(selected.intersection(node.name for node in placed)))
    if names:
        return names
    message, hint = "selects only nodes without an address", ""
    if not selected:
        message, hint = "selects no node", "label a Node, or mend the selector"
    dropped = f"gateway {gateway.name}: {message}; its policies' packets have no gateway"
    problems.append(Problem(gateway.source, SELECTOR, dropped, hint))
    return ()


def _conflict(
    gateway: Gateway, address: str, clash: str, claims: Mapping[str, str], nodes: Iterable[Node]
) -> Problem | None:
    """Why nobody may serve this egress IP."""
    path, hint = "metadata.name", "give it another name"
    if gateway.mode == VIRTUAL_IP:
        # Whether one address was written as ``ip`` or as a list of one, nobody remembers.
        several, place = len(gateway.addresses) > 1, gateway.addresses.index(address) if address else 0
        path = "spec.sourceIP.virtualIPAddress." + (f"ips[{place}]" if several else "ip")
        hint = "use another address"
    reserved = precedence.holding(precedence.RESERVED, address) if address else None
    owner = next((node.name for node in nodes if address in node.addresses), "")
    if gateway.mode == VIRTUAL_IP and not address:
        message = "there is no address"
    elif reserved:
        message = f"{address} cannot be a host's address: {precedence.RESERVED[reserved]}"
    elif owner:
        message = f"{address} is the address of node {owner}"
    elif address and claims[address] != gateway.name:
        message = f"{address} is an address of gateway {claims[address]} too, which keeps it"
    elif clash:
        message = f"{address} has the tunnel number of {clash}".lstrip()
    else:
        return None
    led = f"gateway {gateway.name}: {message}; the packets that are led to it have no gateway"
    return Problem(gateway.source, path, led, hint)
