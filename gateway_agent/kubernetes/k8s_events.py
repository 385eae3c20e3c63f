"""Compute Kubernetes Events: changes that people should be notified of once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..lease.ipc import Change
from ..policy.planner import selected_on_host
from ..policy.pods.unattached_pods import StartedBeside
from ..show.snapshot import NodeSnapshot, rfc3339
from .conditions import Report, readiness

MASTER_CHANGED, CONFLICT, ON_HOST = "MasterChanged", "AddressConflict", "SelectsHostNetwork"
BESIDE = "PodBesidePlugin"
COMPONENT = "egress-gateway-agent"
NAMESPACE = "default"
"""Namespace of Events about cluster-scoped objects, as the API demands."""
MAX_NAME_CHARS, MAX_MESSAGE_CHARS = 253, 1024
"""Lengths that the API accepts."""


@dataclass(frozen=True)
class EventRecord:
    """Something that happened to one of our objects."""

    kind: str
    name: str
    reason: str
    message: str
    at: float
    """Unix time, seconds."""
    warning: bool = False
    key: str = ""
    """Key that is equal for repetitions with different messages (epoch, duration, reason). Empty: the message is the
    key.
    """
    egress: str = ""
    """Id of the egress IP whose master has changed to ``epoch``; else empty."""
    epoch: int = 0


@dataclass
class EventSource:
    """The source of new events, which remembers the reported ones.

    ``since``: Unix time of the start. Earlier changes were reported by an earlier process.
    """

    since: float
    _changes: frozenset[Change] | None = None
    _conflicts: set[tuple[str, str, float]] = field(default_factory=set)
    _on_host: set[tuple[str, str, str]] = field(default_factory=set)
    _beside: frozenset[StartedBeside] = frozenset()

    def new_events(self, view: NodeSnapshot, now: float) -> list[EventRecord]:
        """Return the new events that this node has to report. ``now``: Unix time, seconds."""
        found = [*self._masters(view), *self._claims(view), *self._pods_on_host(view, now)]
        found += self._pods_beside(view)
        return sorted(found, key=lambda record: record.at)

    def _masters(self, view: NodeSnapshot) -> Iterator[EventRecord]:
        if view.lease_daemon is None:
            return
        known, self._changes = self._changes, frozenset(view.lease_daemon.changes)
        for change in view.lease_daemon.changes:
            egress = view.egress(change.id)
            # The new master reports; if there is none, the one before.
            reporter = change.after or change.before
            # Times are compared once only, since the wall clock may be set. Later, unknown changes are new.
            old = change.at <= self.since if known is None else change in known
            if old or egress is None or reporter != view.plan.node:
                continue
            silent = f", silent for {change.silent_ms} ms" if change.silent_ms else ""
            what = f"master of {egress.address or 'the gateway'}: {change.before or 'none'} -> {change.after or 'none'}"
            message, lost = f"{what}, epoch {change.epoch}{silent} ({change.reason})", not change.after
            at, number = change.at, change.epoch
            yield EventRecord(
                "EgressGateway", egress.gateway, MASTER_CHANGED, message, at, lost, what, egress.id, number
            )

    def _pods_on_host(self, view: NodeSnapshot, now: float) -> Iterator[EventRecord]:
        """Yield an event once for each policy and selected pod that uses this node's network and cannot be steered."""
        found = {
            (name, pod.namespace, pod.name)
            for pod, policies in selected_on_host(view.plan, view.inventory)
            for name in policies
        }
        for policy, namespace, name in sorted(found - self._on_host):
            message = (
                f"pod {namespace}/{name} uses its node's network: its packets leave with the node's address"
            )
            yield EventRecord("EgressGatewayPolicy", policy, ON_HOST, message, now, warning=True)
        self._on_host = found

    def _pods_beside(self, view: NodeSnapshot) -> Iterator[EventRecord]:
        """Yield an event of the node once for each pod that started without the plugin."""
        known, self._beside = self._beside, frozenset(view.started_beside.latest)
        for one in view.started_beside.latest:
            if one not in known:
                yield EventRecord("Node", view.plan.node, BESIDE, one.text, one.at, warning=not one.held)

    def _claims(self, view: NodeSnapshot) -> Iterator[EventRecord]:
        conflicts = view.lease_daemon.conflicts if view.lease_daemon else ()
        for conflict in conflicts:
            egress, state = view.egress(conflict.id), view.state(conflict.id)
            mark = (conflict.id, conflict.mac, conflict.since)
            if mark in self._conflicts or egress is None or state is None or state.state != "master":
                continue
            self._conflicts.add(mark)
            message = f"{conflict.mac} on {conflict.interface} claims {conflict.address} too"
            yield EventRecord("EgressGateway", egress.gateway, CONFLICT, message, conflict.since, True)


def is_outdated(record: EventRecord, view: NodeSnapshot) -> bool:
    """Return True for a change of master that was followed by a newer one.

    A node that was away learns at the same time of its loss and of the next master, whose Event is the newer one.
    """
    state = view.state(record.egress)
    return state is not None and state.epoch > record.epoch


def is_due(record: EventRecord, view: NodeSnapshot) -> bool:
    """Return False for a change of master on a node that is cut off and cannot know of a newer change."""
    return not (record.egress and view.plan.isolated)


def of_report(report: Report, now: float) -> list[EventRecord]:
    """Return an event if an object has become unready, or ready again."""
    old, new = readiness(report.before), readiness(report.status)
    if old.get("status") == new.get("status") or (not old and new.get("status") == "True"):
        return []
    warning = new.get("status") != "True"
    message = str(new.get("message") or "ready again")
    reason = str(new.get("reason"))
    return [EventRecord(report.kind, report.name, reason, message, now, warning, key=reason)]


def event(record: EventRecord, api_version: str, uid: str, node: str) -> dict[str, Any]:
    """Return the Event object. A repetition has the same name, and :func:`repeated` counts it."""
    at, mark = rfc3339(record.at), f".{_digest(record, node)}"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": record.name[: MAX_NAME_CHARS - len(mark)] + mark, "namespace": NAMESPACE},
        "involvedObject": {
            "apiVersion": api_version,
            "kind": record.kind,
            "name": record.name,
            "uid": uid,
        },
        "type": "Warning" if record.warning else "Normal",
        "reason": record.reason,
        "message": record.message[:MAX_MESSAGE_CHARS],
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
        "source": {"component": COMPONENT, "host": node},
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
    }


def repeated(stored: Mapping[str, Any], record: EventRecord) -> dict[str, Any] | None:
    """Return the merge patch that counts a repetition of the ``stored`` Event; None if it is counted already.

    The message becomes that of the last repetition.
    """
    at = rfc3339(record.at)
    if str(stored.get("lastTimestamp") or "") >= at:
        return None
    count = stored.get("count")
    said = {"message": record.message[:MAX_MESSAGE_CHARS], "lastTimestamp": at}
    return {"count": (count if isinstance(count, int) else 1) + 1, **said}


def _digest(record: EventRecord, node: str) -> str:
    said = (record.kind, record.name, record.reason, record.key or record.message, node)
    return hashlib.sha256("\0".join(said).encode()).hexdigest()[:16]
