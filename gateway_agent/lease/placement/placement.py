"""The node that should serve each egress IP: it *asks*, and the voters decide."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from functools import lru_cache
from types import MappingProxyType


@lru_cache(maxsize=1 << 14)
def rendezvous_hash(*parts: str) -> int:
    """Return a number of 64 bits that every node computes alike: it settles ties."""
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest(), "big")


def placement(
    eligible: Mapping[str, Collection[str]],
    ready: Mapping[str, Collection[str]],
    masters: Mapping[str, str],
    drained: Collection[str] = (),
    warming: Mapping[str, Collection[str]] = MappingProxyType({}),
    fresh: Collection[str] = (),
) -> dict[str, tuple[str, ...]]:
    """Return for each egress id the nodes that can serve it, best first; empty if there is none.

    ``eligible``, ``ready``, ``warming``: node names by egress id. ``masters``: the healthy masters by egress id.
    A healthy master keeps what it has. One without a master goes to the node with the fewest, ties by hash. A node
    that is ready only just now comes last: it may be one that comes and goes.

    ``fresh``: what was homeless a moment ago, together with what still is. It is dealt out in one order whether it has
    a master by now or not: so candidates of which one knows of a new master earlier than another agree on the rest.
    """
    able = {
        identity: [node for node in nodes if node in ready.get(identity, ()) and node not in drained]
        for identity, nodes in eligible.items()
    }
    kept = {i: masters[i] for i in able if masters.get(i) in able[i]}
    load = Counter(master for identity, master in kept.items() if identity not in fresh)
    order: dict[str, tuple[str, ...]] = {}
    for identity in sorted(able, key=lambda i: (i not in kept or i in fresh, i)):
        late = warming.get(identity, ())
        nodes = sorted(able[identity], key=lambda n: (n in late, load[n], rendezvous_hash(identity, n)))
        if identity in kept:
            nodes.sort(key=lambda n: n != kept[identity])
        if nodes and (identity not in kept or identity in fresh):
            load[nodes[0]] += 1
        order[identity] = tuple(nodes)
    return order
