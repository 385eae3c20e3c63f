"""Compute a node's taint and condition. Nothing else of the node is changed.

The taint keeps the scheduler from binding pods to a node on which they would start without the plugin. The condition
has the same information for controllers that derive taints from conditions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..show.snapshot import rfc3339
from .reflector import Object, version_of

TAINT, EFFECT = "egress-gateway.io/not-ready", "NoSchedule"
CONDITION = "EgressGatewayReady"
READY, NOT_READY = "PodsAreJudged", "PodsWouldStartBesideThePlugin"
"""Reasons of the condition."""
MAX_MESSAGE_CHARS = 1024


def taint_patch(node: Object, unready: str) -> Mapping[str, Any] | None:
    """Return the merge patch that adds our taint if ``unready`` is not empty, else removes it; None if none is needed.

    A list of taints is replaced as a whole. The patch contains the ``resourceVersion``, so it is refused if another
    program has changed the node since.
    """
    found = _list(node, "spec", "taints")
    others = [taint for taint in found if not _is_ours(taint)]
    if bool(unready) == (len(others) < len(found)):
        return None
    wanted = [*others, {"key": TAINT, "effect": EFFECT}] if unready else others
    return {"metadata": {"resourceVersion": version_of(node)}, "spec": {"taints": wanted}}


def condition_patch(node: Object, unready: str, now: float) -> Mapping[str, Any] | None:
    """Return the strategic merge patch of the node's status that sets our condition; None if none is needed.

    ``unready``: the reason; empty if the node is ready. ``now``: Unix time, seconds.
    """
    status, reason = ("False", NOT_READY) if unready else ("True", READY)
    message = (
        unready[:MAX_MESSAGE_CHARS] or "the plugin is in the CNI configuration, and the plan in the kernel"
    )
    found = (c for c in _list(node, "status", "conditions") if isinstance(c, dict))
    before: Mapping[str, Any] = next((c for c in found if c.get("type") == CONDITION), {})
    if (before.get("status"), before.get("message")) == (status, message):
        return None
    since = before.get("lastTransitionTime") if before.get("status") == status else None
    wanted = {
        "type": CONDITION, "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": rfc3339(now), "lastTransitionTime": since or rfc3339(now),
    }  # fmt: skip
    # The server merges this list by type: conditions of others stay.
    return {"status": {"conditions": [wanted]}}


def _is_ours(taint: object) -> bool:
    return isinstance(taint, dict) and (taint.get("key"), taint.get("effect")) == (TAINT, EFFECT)


def _list(node: Object, part: str, name: str) -> list[Any]:
    within = node.get(part)
    found = within.get(name) if isinstance(within, dict) else None
    return found if isinstance(found, list) else []
