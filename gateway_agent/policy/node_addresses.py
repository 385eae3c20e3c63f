"""Remove virtual addresses from the addresses of nodes. Pure.

A kubelet without ``--node-ip`` reports the first address of an interface as the node's address. If that is a virtual
address, the Node object contains it, and the gateway would be refused for using the address of a node: the master would
release the address, and so would the next master. The Node object keeps the address for minutes after another node
became master, or for ever if the node is gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from cni.kernel import ids
from cni.plan import Plan

from ..manifests.model import Inventory, Node, Problem
from .kept_results import Kept

HINT = "start its kubelet with --node-ip; the virtual address is not used as the node's"


def own_only(
    inventory: Inventory, masters: Mapping[str, tuple[str, int]], previous: Plan | None
) -> Inventory:
    """Return the inventory with the nodes' own addresses only, and a problem for each virtual address removed.

    All code that reads addresses of nodes must use the returned inventory. ``masters``: (node, epoch) by egress id.
    ``previous``: the plan in force. An address that this plan has in service is no node's own. A node without any other
    address keeps its addresses in this plan.
    """
    addresses = inventory.virtual_addresses
    if addresses.isdisjoint(_reported(inventory.nodes)):
        return inventory
    virtual = {*_in_service(inventory, previous), *_served(inventory, masters, previous)}
    problems: list[Problem] = []
    nodes = tuple(_own(node, virtual, previous, problems) for node in inventory.nodes)
    return (
        replace(inventory, nodes=nodes, problems=(*inventory.problems, *problems)) if problems else inventory
    )


@Kept
def _reported(nodes: tuple[Node, ...]) -> frozenset[str]:
    return frozenset(address for node in nodes for address in node.addresses)


def _served(
    inventory: Inventory, masters: Mapping[str, tuple[str, int]], previous: Plan | None
) -> Iterator[tuple[str, str]]:
    """Yield (node, address) of each virtual address and its master, now and in the plan in force."""
    before = {egress.id: egress.master for egress in previous.egress_ips} if previous else {}
    for gateway in inventory.gateways:
        for address in gateway.addresses:
            identity = ids.egress_id(gateway.name, address)
            yield masters.get(identity, ("", 0))[0], address
            yield before.get(identity, ""), address


def _in_service(inventory: Inventory, previous: Plan | None) -> Iterator[tuple[str, str]]:
    """Yield (node, address) for each virtual address that the plan in force accepted, and each node.

    A node that is newer than that plan does not have the address either, whatever its object says.
    """
    if previous is None:
        return
    accepted = {egress.address for egress in previous.egress_ips if egress.eligible}
    for node in inventory.nodes:
        yield from ((node.name, address) for address in accepted.intersection(inventory.virtual_addresses))


def _own(
    node: Node, virtual: Collection[tuple[str, str]], previous: Plan | None, problems: list[Problem]
) -> Node:
    wrong = [address for address in node.addresses if (node.name, address) in virtual]
    if not wrong:
        return node
    message = f"node {node.name} reports {', '.join(wrong)}, which is a virtual address in service"
    problems.append(Problem(node.source, "status.addresses", message, HINT))
    own = tuple(address for address in node.addresses if address not in wrong)
    if not own:
        known = next((each for each in previous.nodes if each.name == node.name), None) if previous else None
        own = tuple(filter(None, (known.address, known.address6))) if known else ()
    return replace(node, addresses=own)
