"""A virtual address in the status of a node is not an address of that node. Pure.

A kubelet without ``--node-ip`` takes the first address of an interface for the node's own. If that is a virtual
address, the cluster's object names it as the node's, and the address would be refused as one of a node: the master
would give it up, and with the next master all begins anew. The object of a node goes on naming the address when
another node is master already, for minutes, or for ever if the node is gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from cni.kernel import ids
from cni.plan import Plan

from ..manifests.model import Inventory, Node, Problem

HINT = "start its kubelet with --node-ip; the virtual address is not taken for the node's"


def own_only(
    inventory: Inventory, masters: Mapping[str, tuple[str, int]], previous: Plan | None
) -> Inventory:
    """Return the inventory with the nodes' own addresses only; each virtual one that is left out is a problem in it.

    Everything that reads addresses of nodes reads them from what this returns. ``masters``: by egress id the node and
    its epoch. ``previous``: the plan in force; an address that it has in service is virtual, whichever of its nodes is
    said to have the address now. A node that has no other address keeps those that this plan has of it.
    """
    addresses = inventory.virtual_addresses
    if not addresses or all(addresses.isdisjoint(node.addresses) for node in inventory.nodes):
        return inventory
    virtual = {*_in_service(addresses, previous), *_served(inventory, masters, previous)}
    problems: list[Problem] = []
    nodes = tuple(_own(node, virtual, previous, problems) for node in inventory.nodes)
    return (
        replace(inventory, nodes=nodes, problems=(*inventory.problems, *problems)) if problems else inventory
    )


def _served(
    inventory: Inventory, masters: Mapping[str, tuple[str, int]], previous: Plan | None
) -> Iterator[tuple[str, str]]:
    """Yield (node, address) of each virtual address and the node that serves it, or did by the plan in force."""
    before = {egress.id: egress.master for egress in previous.egress_ips} if previous else {}
    for gateway in inventory.gateways:
        for address in gateway.addresses:
            identity = ids.egress_id(gateway.name, address)
            yield masters.get(identity, ("", 0))[0], address
            yield before.get(identity, ""), address


def _in_service(addresses: Collection[str], previous: Plan | None) -> Iterator[tuple[str, str]]:
    """Yield (node, address) of the virtual addresses that the plan in force found to be no node's."""
    if previous is None:
        return
    accepted = {egress.address for egress in previous.egress_ips if egress.eligible}
    for node in previous.nodes:
        yield from ((node.name, address) for address in accepted.intersection(addresses))


def _own(
    node: Node, virtual: Collection[tuple[str, str]], previous: Plan | None, problems: list[Problem]
) -> Node:
    wrong = [address for address in node.addresses if (node.name, address) in virtual]
    if not wrong:
        return node
    message = f"node {node.name} is said to have {', '.join(wrong)}, which is a virtual address in service"
    problems.append(Problem(node.source, "status.addresses", message, HINT))
    own = tuple(address for address in node.addresses if address not in wrong)
    if not own:
        known = next((each for each in previous.nodes if each.name == node.name), None) if previous else None
        own = tuple(filter(None, (known.address, known.address6))) if known else ()
    return replace(node, addresses=own)
