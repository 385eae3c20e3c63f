"""Read and correct the ConfigMap that records the voter set, after the voters have agreed on it.

The ConfigMap does not decide which nodes vote. It shows the voters to people, and prevents nodes without memory from
bootstrapping: as long as such nodes have no contact with a majority of the recorded set, that majority may exist
elsewhere, and they must not create a second set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..lease.voting.voter_set import VoterSet
from ..manifests.selectors import is_name
from .reflector import Object, version_of

MAX_MEMBERS = 16
"""Largest number of accepted members. A voter set has at most six, in the middle of a change."""
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


def read(item: Object) -> VoterSet | None:
    """Return the recorded voter set; None if the content is invalid."""
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
    """Return the merge patch that sets the ConfigMap to the ``agreed`` voter set; None if none is needed.

    ``settled``: this node has known ``agreed`` for some time. Until then, a newer recorded set may be the right one.
    The patch contains the ``resourceVersion``, so one of two writers is refused (compare and swap).
    """
    recorded = read(item) if item is not None else None
    if item is None or agreed.version < 1 or recorded == agreed:
        return None
    if recorded is not None and recorded.version >= agreed.version and not settled:
        return None
    data = {"version": str(agreed.version), "members": " ".join(agreed.members)}
    return {"metadata": {"resourceVersion": version_of(item)}, "data": data}
