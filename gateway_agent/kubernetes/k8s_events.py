"""Events of Kubernetes: what people should hear of once, in words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..lease.ipc import Change
from ..policy.planner import selected_on_host
from ..show.snapshot import NodeSnapshot, rfc3339
from .conditions import Report, readiness

MASTER_CHANGED, CONFLICT, ON_HOST = "MasterChanged", "AddressConflict", "SelectsHostNetwork"
COMPONENT = "egress-gateway-agent"
NAMESPACE = "default"
"""Of events about what has no namespace: the API demands it."""
NAME, MESSAGE = 253, 1024
"""Characters that the API takes."""


@dataclass(frozen=True)
class EventRecord:
    """Something has happened to an object of ours."""

    kind: str
    name: str
    reason: str
    message: str
    at: float
    """Unix time, seconds."""
    warning: bool = False
    key: str = ""
    """What makes it a repetition of an earlier one, where the message has more than that: an epoch, a duration, why."""
    egress: str = ""
    """Id of the egress IP whose master has changed, with ``epoch``; else empty."""
    epoch: int = 0


@dataclass
class EventSource:
    """What has been told already. ``since``: Unix time of the start; what was before, an earlier process has told."""

    since: float
    _changes: frozenset[Change] | None = None
    _conflicts: set[tuple[str, str, float]] = field(default_factory=set)
    _on_host: set[tuple[str, str, str]] = field(default_factory=set)

    def new_events(self, view: NodeSnapshot, now: float) -> list[EventRecord]:
        """What is new, of all that this node itself is the one to tell. ``now``: Unix time, seconds."""
        found = [*self._masters(view), *self._claims(view), *self._pods_on_host(view, now)]
        return sorted(found, key=lambda happening: happening.at)

    def _masters(self, view: NodeSnapshot) -> Iterator[EventRecord]:
        if view.keeper is None:
            return
        known, self._changes = self._changes, frozenset(view.keeper.changes)
        for change in view.keeper.changes:
            egress = view.egress(change.id)
            # Who has taken over tells it; where nobody has, who was the master before.
            teller = change.after or change.before
            # Only once is the time looked at: clocks are set, and what was not told before is news.
            old = change.at <= self.since if known is None else change in known
            if old or egress is None or teller != view.plan.node:
                continue
            silent = f", silent for {change.silent_ms} ms" if change.silent_ms else ""
            what = f"master of {egress.address or 'the gateway'}: {change.before or 'none'} -> {change.after or 'none'}"
            message, lost = f"{what}, epoch {change.epoch}{silent} ({change.reason})", not change.after
            at, number = change.at, change.epoch
            yield EventRecord(
                "EgressGateway", egress.gateway, MASTER_CHANGED, message, at, lost, what, egress.id, number
            )

    def _pods_on_host(self, view: NodeSnapshot, now: float) -> Iterator[EventRecord]:
        """Yield each policy and pod once: the pod uses this node's network, so the policy cannot steer it."""
        found = {
            (name, pod.namespace, pod.name)
            for pod, policies in selected_on_host(view.plan, view.inventory)
            for name in policies
        }
        for policy, namespace, name in sorted(found - self._on_host):
            message = f"pod {namespace}/{name} uses its node's network: it leaves by the node's address"
            yield EventRecord("EgressGatewayPolicy", policy, ON_HOST, message, now, warning=True)
        self._on_host = found

    def _claims(self, view: NodeSnapshot) -> Iterator[EventRecord]:
        conflicts = view.keeper.conflicts if view.keeper else ()
        for conflict in conflicts:
            egress, state = view.egress(conflict.id), view.state(conflict.id)
            mark = (conflict.id, conflict.mac, conflict.since)
            if mark in self._conflicts or egress is None or state is None or state.state != "master":
                continue
            self._conflicts.add(mark)
            message = f"{conflict.mac} on {conflict.interface} claims {conflict.address} too"
            yield EventRecord("EgressGateway", egress.gateway, CONFLICT, message, conflict.since, True)


def is_outdated(happening: EventRecord, view: NodeSnapshot) -> bool:
    """Return True for a change of master that a newer one has followed.

    A node that was away learns at once that it lost the address, and who has it since. That node's Event is the newest.
    """
    state = view.state(happening.egress)
    return state is not None and state.epoch > happening.epoch


def is_due(happening: EventRecord, view: NodeSnapshot) -> bool:
    """Return False for a change of master on a node that cannot know whether a newer one has followed."""
    return not (happening.egress and view.plan.isolated)


def of_report(report: Report, now: float) -> list[EventRecord]:
    """An object has become unready, or ready again."""
    old, new = readiness(report.before), readiness(report.status)
    if old.get("status") == new.get("status") or (not old and new.get("status") == "True"):
        return []
    warning = new.get("status") != "True"
    message = str(new.get("message") or "ready again")
    reason = str(new.get("reason"))
    return [EventRecord(report.kind, report.name, reason, message, now, warning, key=reason)]


def event(happening: EventRecord, api_version: str, uid: str, node: str) -> dict[str, Any]:
    """Return the Event. A repetition has the same name, and is counted by :func:`repeated`."""
    at, mark = rfc3339(happening.at), f".{_digest(happening, node)}"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": happening.name[: NAME - len(mark)] + mark, "namespace": NAMESPACE},
        "involvedObject": {
            "apiVersion": api_version,
            "kind": happening.kind,
            "name": happening.name,
            "uid": uid,
        },
        "type": "Warning" if happening.warning else "Normal",
        "reason": happening.reason,
        "message": happening.message[:MESSAGE],
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
        "source": {"component": COMPONENT, "host": node},
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
    }


def repeated(standing: Mapping[str, Any], happening: EventRecord) -> dict[str, Any] | None:
    """Return the merge patch that counts a repetition of the Event ``standing``; None if it is counted already.

    The message is that of the last repetition.
    """
    at = rfc3339(happening.at)
    if str(standing.get("lastTimestamp") or "") >= at:
        return None
    count = standing.get("count")
    said = {"message": happening.message[:MESSAGE], "lastTimestamp": at}
    return {"count": (count if isinstance(count, int) else 1) + 1, **said}


def _digest(happening: EventRecord, node: str) -> str:
    said = (happening.kind, happening.name, happening.reason, happening.key or happening.message, node)
    return hashlib.sha256("\0".join(said).encode()).hexdigest()[:16]
