"""The voter set as the cluster has it: a ConfigMap that follows what the voters have agreed.

It grants nothing, and no election asks it. It tells people who votes, and a node that remembers nothing what there is
already: such a node does not found a second set of voters while it is cut off from the first one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .lease import is_majority
from .reflector import Object, version_of
from .voters import VoterSet

NAME = "egress-gateway-voters"
"""Of the ConfigMap. It comes with the manifests, without data: an agent may change it and make no other."""


def read(item: Object) -> VoterSet | None:
    """What it says; None where that is nothing."""
    data = item.get("data") or {}
    version, members = str(data.get("version") or ""), tuple(str(data.get("members") or "").split())
    if not version.isascii() or not version.isdecimal() or int(version) < 1 or not members:
        return None
    return VoterSet(int(version), tuple(sorted(set(members))))


def counting(published: VoterSet | None, nodes: Collection[str]) -> VoterSet | None:
    """The set, where ``nodes``, the inventory, still have a majority of it; None where it can never vote again."""
    return published if published is not None and is_majority(nodes, published.members) else None


def correction(item: Object | None, agreed: VoterSet, nodes: Collection[str]) -> Mapping[str, Any] | None:
    """The merge patch that brings it to what the voters have ``agreed``; None where there is nothing to do.

    It names the version of the object that it is made for, so of two writers one is refused (compare and swap).
    """
    if item is None or agreed.version < 1 or counting(agreed, nodes) is None:
        return None
    standing = counting(read(item), nodes)
    if standing is not None and standing.version >= agreed.version:
        return None
    data = {"version": str(agreed.version), "members": " ".join(agreed.members)}
    return {"metadata": {"resourceVersion": version_of(item)}, "data": data}
