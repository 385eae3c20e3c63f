"""Compute the node that should serve each egress IP. That node requests the lease; the voters decide."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from functools import lru_cache
from types import MappingProxyType


@lru_cache(maxsize=1 << 14)
def rendezvous_hash(*parts: str) -> int:
    """Return a hash of 64 bits that is equal on every node: it breaks ties."""
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
    A healthy master stays first. An egress IP without a master goes to the node with the lowest load, ties by hash. A
    node in ``warming`` comes last: it may fail again soon.

    ``fresh``: ids of egress IPs that had no master a moment ago. They are placed in one order together with those that
    still have none. So two candidates agree on the other egress IPs even if only one candidate knows of a new master
    already.
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
