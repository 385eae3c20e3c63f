"""Compute the answers of ``egressctl`` as plain data for JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cni.calls.attachments import Attachment
from cni.plan import PlanEgressIP

from ..lease.ipc import Change, Conflict
from ..manifests.model import Problem
from .explain import NotKnown, explain
from .snapshot import (
    DIRECT,
    DROPPED,
    NodeSnapshot,
    master,
    no_master_reason,
    path_verdict,
    rfc3339,
    shown_address,
)
from .verdict import verdict

__all__ = ["NodeSnapshot", "NotKnown", "events", "explain", "pods", "problem", "status"]


def status(view: NodeSnapshot) -> dict[str, Any]:
    """Return the answer of ``egressctl status -o json``. ``pods`` counts the pods attached to this node."""
    plan, daemon = view.plan, view.lease_daemon
    gateway = any(plan.node in egress.eligible for egress in plan.egress_ips)
    return {
        "verdict": verdict(view),
        "node": plan.node,
        "roles": ["node", "gateway"] if gateway else ["node"],
        "isolated": plan.isolated,
        "egressIPs": [_egress_ip(view, egress) for egress in plan.egress_ips],
        "members": [
            {
                "node": member.node,
                "alive": member.alive,
                "ready": member.ready,
                "reason": member.reason,
                "lastHeardMs": member.silent_ms,
            }
            for member in (daemon.members if daemon else ())
        ],
        "voters": list(daemon.voters) if daemon else [],
        "voterSet": daemon.voter_set if daemon else 0,
        "counters": dict(sorted(daemon.counters.items())) if daemon else {},
        "startedBeside": _started_beside(view),
        "problems": [problem(found) for found in view.problems],
    }


def _started_beside(view: NodeSnapshot) -> dict[str, Any]:
    """Return the numbers of pods that started without a call of the plugin, and the last of these pods."""
    found = view.started_beside
    return {
        "held": found.held,
        "loose": found.loose,
        "latest": [
            {"namespace": one.namespace, "name": one.name, "at": rfc3339(one.at), "held": one.held}
            for one in found.latest
        ],
    }


def _egress_ip(view: NodeSnapshot, egress: PlanEgressIP) -> dict[str, Any]:
    state = view.state(egress.id)
    name, epoch = master(view, egress)
    reason = state.reason if state else ""
    if not name:
        reason = no_master_reason(view, egress)
    last = view.last_change(egress.id)
    return {
        "gateway": egress.gateway,
        "ip": shown_address(view, egress),
        "mode": egress.mode,
        "master": name,
        "epoch": epoch,
        "since": rfc3339(state.since) if state and name else "",
        "state": state.state if state else "none",
        "reason": reason,
        "pods": _attached_pods(view, egress),
        "eligible": list(egress.eligible),
        "survivor": state.without_quorum if state else False,
        "whenNoGateway": "Direct" if egress.direct else "Drop",
        "lastChange": _change(view, last) if last else None,
        "conflict": next((c.mac for c in _conflicts(view) if c.id == egress.id), ""),
    }


def _conflicts(view: NodeSnapshot) -> tuple[Conflict, ...]:
    return view.lease_daemon.conflicts if view.lease_daemon else ()


def _attached_pods(view: NodeSnapshot, egress: PlanEgressIP) -> int:
    sets = {s.group for s in view.plan.policy_sets if egress.id in (*s.egress_ids, *s.egress_ids6)}
    return len({(a.namespace, a.name) for a in view.attachments if a.group in sets})


def pods(view: NodeSnapshot) -> dict[str, Any]:
    """Return the answer of ``egressctl pods -o json`` under the key ``pods``.

    There is one entry for each pod interface and gateway, and a second one if the gateway has a separate egress IP for
    IPv6. ``via`` is the node by which packets leave. If ``via`` is empty, ``verdict`` says if no gateway is in use or
    if none is available.
    """
    ordered = sorted(view.attachments, key=lambda a: (a.namespace, a.name, a.ifname))
    return {"pods": [row for attachment in ordered for row in _rows(view, attachment)]}


def _rows(view: NodeSnapshot, attachment: Attachment) -> Iterator[dict[str, Any]]:
    base: dict[str, Any] = {
        "namespace": attachment.namespace,
        "name": attachment.name,
        "interface": attachment.host_interface,
        "interfaces": list(attachment.host_interfaces),
        "policies": [],
        "gateway": "",
        "ip": "",
        "via": "",
        "verdict": DROPPED if attachment.group else DIRECT,
    }
    policy_set = view.set_of(attachment) if attachment.group else None
    if policy_set is None:
        yield base
        return
    leading: dict[str, list[str]] = {}
    for name, id4, id6 in zip(*policy_set.key, strict=True):
        for egress_id in dict.fromkeys((id4, id6)):
            leading.setdefault(egress_id, []).append(name)
    for egress_id, names in leading.items():
        egress = view.egress(egress_id)
        if egress is not None:
            end = path_verdict(view, egress)
            yield {**base, "policies": names, "gateway": egress.gateway, "ip": end.ip, "via": end.via,
                   "verdict": end.verdict}  # fmt: skip


def events(view: NodeSnapshot) -> dict[str, Any]:
    """Return the answer of ``egressctl events -o json`` under the key ``events``: changes and conflicts, by age."""
    rows = [
        (change.at, _change(view, change))
        for change in (view.lease_daemon.changes if view.lease_daemon else ())
    ]
    rows += [(conflict.since, _conflict(view, conflict)) for conflict in _conflicts(view)]
    return {"events": [row for _, row in sorted(rows, key=lambda item: item[0])]}


def _conflict(view: NodeSnapshot, conflict: Conflict) -> dict[str, Any]:
    """Return a conflict in the form of a change, with the same master before and after."""
    state = view.state(conflict.id)
    now = Change(conflict.id, state.master if state else "", state.master if state else "",
                 state.epoch if state else 0, conflict.since, 0, conflict_text(conflict))  # fmt: skip
    return _change(view, now)


def conflict_text(conflict: Conflict) -> str:
    """Return the description of an address conflict."""
    return f"{conflict.mac} on {conflict.interface} claims {conflict.address} too"


def _change(view: NodeSnapshot, change: Change) -> dict[str, Any]:
    egress = view.egress(change.id)
    return {
        "at": rfc3339(change.at),
        "gateway": egress.gateway if egress else change.id,
        "ip": egress.address if egress else "",
        "before": change.before,
        "after": change.after,
        "epoch": change.epoch,
        "silentMs": change.silent_ms,
        "reason": change.reason,
    }


def problem(found: Problem) -> dict[str, str]:
    """Return a problem as ``{source, path, message, hint}``."""
    return {"source": found.source, "path": found.path, "message": found.message, "hint": found.hint}
