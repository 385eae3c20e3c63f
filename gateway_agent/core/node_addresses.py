"""A virtual address in the status of the node that serves it is not an address of that node. Pure.

A kubelet without ``--node-ip`` takes the first address of an interface for the node's own. If that is a virtual
address, the cluster's object names it as the node's, and the address would be refused as one of a node: the master
would give it up, and with the next master all begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cni.kernel import ids
from cni.plan import Plan

from .model import Inventory, Node, Problem

HINT = "start its kubelet with --node-ip; the virtual address is not taken for the node's"


def without_served(
    inventory: Inventory,
    masters: Mapping[str, tuple[str, int]],
    previous: Plan | None,
    problems: list[Problem],
) -> Inventory:
    """Return the inventory with no virtual address among the addresses of the node that serves it.

    A node that has no other address keeps those that ``previous``, the plan in force, has of it.
    """
    served = _served(inventory, masters, previous)
    nodes = tuple(_own(node, served, previous, problems) for node in inventory.nodes)
    return inventory if nodes == inventory.nodes else replace(inventory, nodes=nodes)


def _served(
    inventory: Inventory, masters: Mapping[str, tuple[str, int]], previous: Plan | None
) -> frozenset[tuple[str, str]]:
    """Return (node, address) of each virtual address and the node that serves it, or did by the plan in force."""
    before = {egress.id: egress.master for egress in previous.egress_ips} if previous else {}
    found = set()
    for gateway in inventory.gateways:
        for address in gateway.addresses:
            identity = ids.egress_id(gateway.name, address)
            found |= {(masters.get(identity, ("", 0))[0], address), (before.get(identity, ""), address)}
    return frozenset(found)


def _own(
    node: Node, served: frozenset[tuple[str, str]], previous: Plan | None, problems: list[Problem]
) -> Node:
    virtual = [address for address in node.addresses if (node.name, address) in served]
    if not virtual:
        return node
    message = f"node {node.name} is said to have {', '.join(virtual)}, which it serves as a virtual address"
    problems.append(Problem(node.source, "status.addresses", message, HINT))
    own = tuple(address for address in node.addresses if address not in virtual)
    if not own:
        known = next((each for each in previous.nodes if each.name == node.name), None) if previous else None
        own = tuple(filter(None, (known.address, known.address6))) if known else ()
    return replace(node, addresses=own)
