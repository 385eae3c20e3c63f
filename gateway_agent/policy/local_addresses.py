"""Find addresses of this node that selected pods reach only through their gateway. Pure.

The nodes do not send each other their addresses; ``docs/design/addresses-inside.md`` has the reasons.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from cni.kernel import ids

from ..manifests.model import Inventory
from . import planner, precedence
from .egress_node.readiness import InterfaceFacts, bare


def outside(
    inventory: Inventory, cluster_cidrs: Iterable[str], facts: Mapping[str, InterfaceFacts]
) -> Iterator[tuple[str, str]]:
    """Yield (interface, address) of each local address that is no destination inside the cluster.

    ``facts``: the node's interfaces, without those of pods.
    """
    never = planner.never_sent(inventory, cluster_cidrs)
    for interface, known in sorted(facts.items()):
        if known.bears_pods or interface.startswith(ids.DEVICE_PREFIX):
            continue
        for address in map(bare, known.addresses):
            virtual = address in inventory.virtual_addresses
            if not virtual and precedence.holding(never, address) is None:
                yield interface, address
