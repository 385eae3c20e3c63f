"""The voter set as the cluster has it: a ConfigMap that follows what the voters have agreed.

Nobody votes by it. It tells people who votes, and it holds back nodes that remember nothing: where such nodes hear no
majority of it, those who remember are somewhere else, or gone, and no second set is founded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..lease.voting.voter_set import VoterSet
from ..manifests.selectors import is_name
from .reflector import Object, version_of

MAX_MEMBERS = 16
"""Members that are read; a voter set has six at most, in the middle of a change."""
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


def read(item: Object) -> VoterSet | None:
    """What it says; None where that is nothing that can be meant."""
    found = item.get("data")
    data = found if isinstance(found, dict) else {}
    version, members = str(data.get("version") or ""), sorted({*str(data.get("members") or "").split()})
    if (
        not _VERSION.fullmatch(version)
        or not 1 <= len(members) <= MAX_MEMBERS
        or not all(map(is_name, members))
    ):
        return None
    return VoterSet(int(version), tuple(members))


def correction(item: Object | None, agreed: VoterSet, *, settled: bool) -> Mapping[str, Any] | None:
    """The merge patch that brings it to what the voters have ``agreed``; None where there is nothing to do.

    ``settled``: this node has known the set for long. Until then one that is newer there may well be the right one.
    The patch names the version of the object that it is made for, so of two writers one is refused (compare and swap).
    """
    standing = read(item) if item is not None else None
    if item is None or agreed.version < 1 or standing == agreed:
        return None
    if standing is not None and standing.version >= agreed.version and not settled:
        return None
    data = {"version": str(agreed.version), "members": " ".join(agreed.members)}
    return {"metadata": {"resourceVersion": version_of(item)}, "data": data}
