"""Compute the status of gateways and policies in the API, and the node that writes it.

No packet depends on the API: a late or missing status affects only people who read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cni.plan import PlanEgressIP

from ..lease.ipc import KeeperState
from ..lease.voting.members import NO_MAJORITY
from ..manifests.model import BASIC, Gateway, Policy
from ..show.snapshot import NodeSnapshot, master, no_master_reason, rfc3339, shown_address
from .reflector import Object, key_of, version_of

READY = "Ready"
ELECTED, ANNOUNCED = "ElectionSucceed", "ElectionSucceedAndVirtualIPAnnounced"
NOT_ELECTED, NOT_ANNOUNCED = "ElectionFailed", "VirtualIPAnnouncingFailed"
IN_FORCE, NO_GATEWAY = "GatewayFound", "GatewayNotFound"
INVALID = "Invalid"
Json = dict[str, Any]
ReadyVerdict = tuple[bool, str, str]
"""(ready, reason, message) of the condition ``Ready``."""


@dataclass(frozen=True)
class Report:
    """A status that is to be written. ``before``: the present one."""

    kind: str
    name: str
    before: Mapping[str, Any]
    status: Mapping[str, Any]
    version: str = ""
    """``resourceVersion`` of the object that ``before`` was read from."""


def reports(view: NodeSnapshot, objects: Iterable[Object], now: float) -> Iterator[Report]:
    """Yield the outdated statuses that this node has to write.

    ``objects``: gateways and policies of the API. ``now``: Unix time, seconds.
    """
    writes_policies = cluster_status_writer(view) == view.plan.node
    for item in objects:
        kind, (_, name) = str(item.get("kind")), key_of(item)
        found = item.get("status")
        before = found if isinstance(found, Mapping) else {}
        generation = int((item.get("metadata") or {}).get("generation") or 0)
        wrong = _wrong(view, kind, name)
        if kind == "EgressGateway" and gateway_status_writer(view, name) == view.plan.node:
            gateway = next((g for g in view.inventory.gateways if g.name == name), None)
            status = _gateway(view, name, gateway, wrong)
        elif kind == "EgressGatewayPolicy" and writes_policies:
            policy = next((p for p in view.inventory.policies if p.name == name), None)
            status = {"verdict": _policy_verdict(view, policy, wrong)}
        else:
            continue
        condition = _condition(before, status.pop("verdict"), generation, now)
        status = {"observedGeneration": generation, **status, "conditions": [condition]}
        if status != before:
            yield Report(kind, name, before, status, version_of(item))


def _gateway(view: NodeSnapshot, name: str, gateway: Gateway | None, wrong: str) -> Json:
    mine = [egress for egress in view.plan.egress_ips if egress.gateway == name]
    rows = [_row(view, egress) for egress in mine]
    return {
        "readyNodes": len(ready_nodes(view, mine)),
        "activeNodeName": rows[0]["node"] if rows else "",
        "egressIPs": [row for row in rows if row["ip"]],
        "verdict": _gateway_verdict(view, gateway, mine, wrong),
    }


def ready_nodes(view: NodeSnapshot, egress_ips: Iterable[PlanEgressIP]) -> set[str]:
    """Return the nodes that are master of one of these egress IPs, or could be."""
    mine = list(egress_ips)
    eligible = {name for egress in mine for name in egress.eligible}
    members = view.lease_daemon.members if view.lease_daemon else ()
    found = {member.node for member in members if member.alive and member.ready}
    states = (view.state(egress.id) for egress in mine)
    if any(state is not None and state.state in ("master", "standby") for state in states):
        found.add(view.plan.node)
    return found & eligible


def gateway_status_writer(view: NodeSnapshot, gateway: str) -> str:
    """Return the name of the node that writes the status of a gateway; empty if this node cannot know.

    The first existing one of these writes: the master, a ready node, an egress node of the gateway that is alive, and
    the first of :func:`_others`. Egress nodes without contact to a majority write nothing. A node that is cut off,
    whose lease daemon has just started, or which has just learned of the gateway, cannot know the writer: it would
    write that there is no master.
    """
    if view.plan.isolated or view.lease_daemon is None or not view.settled:
        return ""
    mine = [egress for egress in view.plan.egress_ips if egress.gateway == gateway]
    if any(view.state(egress.id) is None for egress in mine):
        return ""
    masters = [name for egress in mine if (name := master(view, egress)[0])]
    eligible = sorted({name for egress in mine for name in egress.eligible})
    ready = sorted(ready_nodes(view, mine))
    receiving = {*_alive(view.lease_daemon), view.plan.node}
    alive = (name for name in eligible if name in receiving)
    return next(iter([*masters, *ready, *alive, *_others(view, view.lease_daemon), *eligible]), "")


def cluster_status_writer(view: NodeSnapshot) -> str:
    """Return the node that writes the status of everything else: the writer of the first gateway.

    Without a gateway it is the first of :func:`_others`. Empty if this node cannot know.
    """
    if view.plan.isolated or view.lease_daemon is None or not view.settled:
        return ""
    authors = (
        gateway_status_writer(view, gateway.name)
        for gateway in sorted(view.inventory.gateways, key=lambda g: g.name)
    )
    return next(authors, "") or next(_others(view, view.lease_daemon), "")


def _alive(daemon: KeeperState) -> list[str]:
    """Return the egress nodes that are live and have contact with a majority."""
    return sorted(member.node for member in daemon.members if member.alive and member.reason != NO_MAJORITY)


def _others(view: NodeSnapshot, daemon: KeeperState) -> Iterator[str]:
    """Yield nodes that may write what no candidate of a gateway does, those first that have an agent for certain.

    These are the egress nodes that are alive, then voters, then all nodes that are no egress nodes: a Node may be of a
    machine without an agent.
    """
    yield from _alive(daemon)
    rest = {node.name for node in view.plan.nodes} - {member.node for member in daemon.members}
    yield from sorted(rest & set(daemon.voters))
    yield from sorted(rest - set(daemon.voters))


def _row(view: NodeSnapshot, egress: PlanEgressIP) -> Json:
    state = view.state(egress.id)
    name, epoch = master(view, egress)
    since = {"since": rfc3339(state.since)} if name and state and state.since else {}
    return {"ip": shown_address(view, egress), "node": name, "epoch": epoch, **since}


def _gateway_verdict(
    view: NodeSnapshot, gateway: Gateway | None, mine: list[PlanEgressIP], wrong: str
) -> ReadyVerdict:
    if gateway is None or wrong:
        return False, INVALID, wrong or "the agents do not know it yet"
    without = [egress for egress in mine if not master(view, egress)[0]]
    if without or not mine:
        reasons = dict.fromkeys(no_master_reason(view, egress) for egress in without)
        named = ", ".join(filter(None, (egress.address for egress in without)))
        message = "; ".join(reasons) or "it has no address that could be served"
        return False, NOT_ELECTED, f"no master of {named}: {message}" if named else f"no master: {message}"
    ids = {egress.id for egress in mine}
    for conflict in view.lease_daemon.conflicts if view.lease_daemon else ():
        if conflict.id in ids:
            return (
                False,
                NOT_ANNOUNCED,
                f"{conflict.mac} on {conflict.interface} claims {conflict.address} too",
            )
    return True, ELECTED if gateway.mode == BASIC else ANNOUNCED, ""


def _policy_verdict(view: NodeSnapshot, policy: Policy | None, wrong: str) -> ReadyVerdict:
    if policy is None or wrong:
        return False, INVALID, wrong or "the agents do not know it yet"
    if policy.gateway not in {gateway.name for gateway in view.inventory.gateways}:
        return (
            False,
            NO_GATEWAY,
            f"there is no EgressGateway {policy.gateway}: what the policy selects is dropped",
        )
    return True, IN_FORCE, ""


def _wrong(view: NodeSnapshot, kind: str, name: str) -> str:
    """Return the problems of the object itself; a missing gateway is none of them."""
    source, missing = f"{kind} {name}", "spec.egressGatewayName"
    return "; ".join(
        f"{p.path}: {p.message}" for p in view.problems if p.source == source and p.path != missing
    )


def rows(status: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return the mappings in a list of a status. Other items are ignored: another platform's schema may differ."""
    found = status.get(name)
    return [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []


def readiness(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the condition ``Ready``; empty if there is none."""
    return next((condition for condition in rows(status, "conditions") if condition.get("type") == READY), {})


def _condition(before: Mapping[str, Any], verdict: ReadyVerdict, generation: int, now: float) -> Json:
    """Return the condition ``Ready``. By API convention its time is that of the last change of its ``status``."""
    good, reason, message = verdict
    status = "True" if good else "False"
    old = readiness(before)
    same = old.get("status") == status and old.get("lastTransitionTime")
    return {
        "type": READY,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": old["lastTransitionTime"] if same else rfc3339(now),
        "observedGeneration": generation,
    }
