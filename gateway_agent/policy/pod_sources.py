"""Which source addresses no pod may have, and which interfaces lead to other machines."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping

from cni.kernel import ids
from cni.plan import Plan

from ..manifests.model import Inventory, Problem
from .readiness import InterfaceFacts, bare

NAMED = 3
"""Pods that a problem names."""


def uplinks(plan: Plan, facts: Mapping[str, InterfaceFacts]) -> tuple[str, ...]:
    """Return the interfaces that a default route leads out by, that have this node's address, or that are an egress
    interface: sorted.

    An interface that bears pods is none for a default route in another table than the main one: somebody leads traffic
    to a pod by it (a VPN, a proxy), and the other pods behind it stay pods.
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
    """Return the interfaces by which other nodes' packets may come: sorted.

    A node with two links to the others gets packets by the one that its own routes do not choose. No pod is behind one
    of them: where pods are, the route back decides.
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
    """Yield a problem for each bridge on which all packets of selected pods are dropped, because no source routes back
    by it. ``selected``: the host-side interfaces of each selected pod, by its name."""
    for bridge, known in sorted(facts.items()):
        pods = sorted(
            pod for pod, interfaces in selected.items() if not known.bridged_only.isdisjoint(interfaces)
        )
        if pods:
            more = f" and {len(pods) - NAMED} more" if len(pods) > NAMED else ""
            named = f"{', '.join(pods[:NAMED])}{more}"
            message = f"what selected pods send by it is dropped, since no route leads by it: {named}"
            yield Problem(f"bridge {bridge}", "", message, f"ip route add PREFIX_OF_THE_PODS dev {bridge}")


def reserved(inventory: Inventory, plan: Plan, shown: Iterable[str]) -> tuple[str, ...]:
    """Return the addresses that a pod may not have as its source: virtual ones, those of nodes, and those that the
    outside sees, sorted.

    ``shown``: by which masters say that packets leave; in basic mode only they know.
    """
    nodes = (address for node in inventory.nodes for address in node.addresses)
    own = (address for egress in plan.egress_ips for address in (egress.source, egress.source6))
    return tuple(sorted({*inventory.virtual_addresses, *nodes, *own, *_valid(shown)} - {""}))


def _valid(texts: Iterable[str]) -> Iterator[str]:
    """Yield those of the texts that are addresses: they come from another machine."""
    for text in texts:
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(text)
            # By its number: an IPv6 address may be written with a zone.
            yield str(type(address)(int(address)))
