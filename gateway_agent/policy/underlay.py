"""Choose the underlay of tunnels and heartbeats: one family for the cluster, one address for each node. Pure.

Both ends of a tunnel need the same family. If each node chose the family itself, the cluster could split into two
halves without contact, and each half could act as the whole cluster. So the family follows from the inventory, which
all nodes share. A node without an address of that family is left out: its selected pods reach no gateway, and their
packets are dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, islice

from cni.kernel import ids
from cni.plan import PlanNode

from ..manifests.model import Node, Problem, seniority
from . import precedence
from .kept_results import Kept

MAPPED = "::ffff:"
"""IPv4-mapped addresses are never on a wire (RFC 4291, section 2.5.5.2)."""


def family(nodes: Iterable[Node]) -> int:
    """Return 6 if more nodes have only IPv6 addresses than have an IPv4 address; else 4.

    The majority decides, so that a few nodes of the other family do not change the whole cluster.
    """
    return _family(tuple(nodes))


@Kept
def _family(nodes: tuple[Node, ...]) -> int:
    with_ipv4 = sum(bool(address(node, 4)) for node in nodes)
    only_ipv6 = sum(bool(address(node, 6)) and not address(node, 4) for node in nodes)
    return 6 if only_ipv6 > with_ipv4 else 4


def address(node: Node, family: int) -> str:
    """Return the first address of a node in this family that other nodes can reach; empty if there is none."""
    return next((a for a in node.addresses if (6 if ":" in a else 4) == family and _reachable(a)), "")


def own_address(nodes: Iterable[Node], name: str) -> str:
    """Return the tunnel endpoint address of the node with this name; empty if there is none."""
    found = tuple(nodes)
    chosen = family(found)
    return next((address(node, chosen) for node in found if node.name == name), "")


def others(nodes: Iterable[Node], name: str, first: Collection[str], limit: int) -> tuple[str, ...]:
    """Return the addresses of up to ``limit`` nodes other than ``name``, those of the nodes in ``first`` first."""
    found = tuple(nodes)
    chosen = family(found)
    ordered = _by_name(found)
    early = (node for node in ordered if node.name in first)
    late = (node for node in ordered if node.name not in first)
    addresses = (address(node, chosen) for node in chain(early, late) if node.name != name)
    return tuple(islice(filter(None, addresses), limit))


@Kept
def _by_name(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    return tuple(sorted(nodes, key=lambda node: node.name))


def place(nodes: Iterable[Node], problems: list[Problem]) -> tuple[PlanNode, ...]:
    """Return the nodes that tunnels can reach, sorted by name. Each node that is left out adds a problem."""
    placed, found = _place(tuple(nodes))
    problems += found
    return placed


@Kept
def _place(nodes: tuple[Node, ...]) -> tuple[tuple[PlanNode, ...], tuple[Problem, ...]]:
    problems: list[Problem] = []
    placed = tuple(sorted(_placed(nodes, problems), key=lambda node: node.name))
    return placed, tuple(problems)


def _placed(nodes: Sequence[Node], problems: list[Problem]) -> Iterator[PlanNode]:
    """Yield the nodes, the oldest ones first: an address stays with the node that had it first."""
    chosen = family(nodes)
    owners: dict[str, str] = {}
    for node in sorted(nodes, key=lambda node: seniority(node.created, node.name)):
        own = address(node, chosen)
        if not own:
            problems.append(Problem(node.source, "status.addresses", *_without(node, chosen)))
            continue
        numbers = _numbers(own)
        taken = next((number for number in numbers if number in owners), "")
        if taken:
            message = f"node {node.name} has {taken}, which is the address of node {owners[taken]}"
            if taken != own:
                message = (
                    f"node {node.name}: {own} gives it {taken} in the tunnels, which node {owners[taken]} has"
                )
            problems.append(Problem(node.source, "status.addresses", message, "each node needs its own"))
            continue
        owners.update(dict.fromkeys(numbers, node.name))
        yield PlanNode(node.name, own, address(node, 6))


def _numbers(own: str) -> tuple[str, ...]:
    """Return the values that no two nodes may share: the address, its MAC and its inner addresses.

    MAC and inner addresses have fewer bits than the address, so two addresses can collide in them.
    """
    inner = (ids.inner(own, family, synced) for family in (4, 6) for synced in (False, True))
    return tuple(dict.fromkeys((own, ids.node_mac(own), *inner)))


def _without(node: Node, chosen: int) -> tuple[str, str]:
    """Return message and hint for a node without an address of the chosen family."""
    hint = "add {type: InternalIP, address: …}"
    if not node.addresses:
        return f"node {node.name} has no address", hint
    unusable = [a for a in node.addresses if not _reachable(a)]
    if len(unusable) == len(node.addresses):
        return f"node {node.name} has no address that others can reach: {', '.join(unusable)}", hint
    message = (
        f"node {node.name} has no IPv{chosen} address, and the tunnels of this cluster are over IPv{chosen}: "
        "its selected pods reach no gateway, and it can be none"
    )
    return message, f"{hint} of that family, or give all nodes one of the other"


@lru_cache(maxsize=1 << 14)
def _reachable(text: str) -> bool:
    return precedence.holding(precedence.RESERVED, text) is None and not text.startswith(MAPPED)
