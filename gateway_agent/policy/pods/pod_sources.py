"""Compute the source addresses that no pod may use, and the interfaces that lead to other machines."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping

from cni.kernel import ids
from cni.plan import Plan

from ...manifests.model import Inventory, Problem
from ..egress_node.readiness import InterfaceFacts, bare

MAX_NAMED_PODS = 3
"""Largest number of pods that a problem lists by name."""


def uplinks(plan: Plan, facts: Mapping[str, InterfaceFacts]) -> tuple[str, ...]:
    """Return the uplinks, sorted: interfaces of default routes, of this node's addresses, and egress interfaces.

    An interface with pods behind it is no uplink because of a default route outside of the main table: such a route
    sends traffic to one pod (a VPN, a proxy), and the other pods behind the interface must be checked.
    """
    me = plan.me
    own = {me.address, me.address6} - {""} if me else set()
    egress = {egress_ip.interface for egress_ip in plan.egress_ips}
    return tuple(
        sorted(
            name
            for name, known in facts.items()
            if not name.startswith(ids.DEVICE_PREFIX)
            and (
                (known.uplink and not known.bears_pods)
                or known.default_route
                or name in egress
                or not own.isdisjoint(map(bare, known.addresses))
            )
            and name != "lo"
        )
    )


def node_links(facts: Mapping[str, InterfaceFacts]) -> tuple[str, ...]:
    """Return the interfaces by which packets of other nodes may arrive, sorted.

    A node with two links to the others receives packets also by the link that its own routes do not use. Interfaces
    with pods behind them are left out: the route back to the source decides about their packets.
    """
    return tuple(
        sorted(
            name
            for name, known in facts.items()
            if known.leads_to_nodes
            and not known.bears_pods
            and name != "lo"
            and not name.startswith(ids.DEVICE_PREFIX)
        )
    )


def bridged_only(
    selected: Mapping[str, Iterable[str]], facts: Mapping[str, InterfaceFacts]
) -> Iterator[Problem]:
    """Yield a problem for each bridge that no route uses: all packets of selected pods on such a bridge are dropped.

    ``selected``: host-side interfaces of each selected pod, by the pod's name.
    """
    for bridge, known in sorted(facts.items()):
        pods = sorted(
            pod for pod, interfaces in selected.items() if not known.bridged_only.isdisjoint(interfaces)
        )
        if pods:
            more = f" and {len(pods) - MAX_NAMED_PODS} more" if len(pods) > MAX_NAMED_PODS else ""
            named = f"{', '.join(pods[:MAX_NAMED_PODS])}{more}"
            message = f"packets of selected pods on it are dropped, because no route uses it: {named}"
            yield Problem(f"bridge {bridge}", "", message, f"ip route add PREFIX_OF_THE_PODS dev {bridge}")


def reserved(
    inventory: Inventory, plan: Plan, facts: Mapping[str, InterfaceFacts], shown: Iterable[str]
) -> tuple[str, ...]:
    """Return the addresses that no pod may use as source, sorted: virtual addresses, nodes' and egress addresses.

    For this node, these are all addresses on uplinks; for other nodes, the addresses in their Node objects. ``shown``:
    source addresses that masters report; in basic mode only the master knows its address.
    """
    own = (bare(address) for name in uplinks(plan, facts) for address in facts[name].addresses)
    known = {*_of_nodes(inventory), *_global(own), *egress_sources(inventory, plan, shown)}
    return tuple(sorted(known - {""}))


def egress_sources(inventory: Inventory, plan: Plan, shown: Iterable[str]) -> tuple[str, ...]:
    """Return the addresses that the outside sees of gateways, sorted. ``shown``: as for :func:`reserved`.

    The addresses in Node objects are left out: in basic mode one of them may be seen outside, and packets of that node
    to pods of other nodes have it as their source. A virtual address is no node's, whatever an object says.
    """
    egress = (address for egress in plan.egress_ips for address in (egress.source, egress.source6))
    known = {*egress, *_valid(shown)} - {"", *_of_nodes(inventory)}
    return tuple(sorted({*inventory.virtual_addresses, *known}))


def _of_nodes(inventory: Inventory) -> Iterator[str]:
    """Yield the addresses in the Node objects."""
    return (address for node in inventory.nodes for address in (*node.addresses, *node.external))


def overlay_ports(facts: Mapping[str, InterfaceFacts]) -> tuple[int, ...]:
    """Return the UDP ports at which overlay devices of other programs take packets, sorted."""
    return tuple(sorted({known.overlay_port for known in _overlays(facts)} - {0}))


def overlay_addresses(
    inventory: Inventory, plan: Plan, facts: Mapping[str, InterfaceFacts]
) -> tuple[str, ...]:
    """Return the addresses of this node at which packets of overlays may arrive by any interface, sorted.

    Those of its uplinks and of its Node object, and those that overlay devices name, which may be on ``lo``.
    """
    nodes = (node for node in inventory.nodes if node.name == plan.node)
    own = (address for node in nodes for address in (*node.addresses, *node.external))
    uplink = (bare(address) for name in uplinks(plan, facts) for address in facts[name].addresses)
    named = (known.overlay_address for known in _overlays(facts))
    return tuple(sorted({*own, *_global(uplink), *named} - {""}))


def _overlays(facts: Mapping[str, InterfaceFacts]) -> Iterator[InterfaceFacts]:
    """Yield the facts of all interfaces but ours."""
    return (known for name, known in facts.items() if not name.startswith(ids.DEVICE_PREFIX))


def _global(texts: Iterable[str]) -> Iterator[str]:
    """Yield the addresses that are valid beyond one link: any machine may have a link-local address on its own link."""
    return (text for text in _valid(texts) if not ipaddress.ip_address(text).is_link_local)


def _valid(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts that are addresses, in canonical form. The texts come from another machine."""
    for text in texts:
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(text)
            # Converted by its number, which drops the zone of an IPv6 address.
            yield str(type(address)(int(address)))
