"""Evaluate a node's state: list its faults, the worst first, each with a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..manifests.model import Fault
from .snapshot import NodeSnapshot, master, no_master_reason

OK = "OK"
TITLES = {
    Fault.ISOLATED: "isolated",
    Fault.NO_MASTER: "no master",
    Fault.CONFLICT: "address conflict",
    Fault.KERNEL: "kernel not reconciled",
    Fault.PLUGIN: "plugin not in use",
    Fault.KEY: "key mismatch",
    Fault.LATE: "lease daemon late",
    Fault.LEASE_DAEMON: "lease daemon",
    Fault.NOT_READY: "agent not ready",
    Fault.NO_MAJORITY: "held without a majority",
    Fault.MEMBER: "egress node down",
    Fault.ORPHAN: "policy without a gateway",
    Fault.OBJECT: "invalid object",
    Fault.API: "Kubernetes API",
    Fault.OTHER: "problem",
    Fault.STARTING: "starting",
    Fault.DRAINED: "drained",
}
"""Beginnings of the first line of status, the worst fault first."""
TO_DO = {
    Fault.CONFLICT: "find the other machine by its MAC",
    Fault.KERNEL: "the agent tries again each second; its log has the reason",
    Fault.PLUGIN: "egressctl doctor",
    Fault.KEY: "egressctl key",
    Fault.LATE: "give the lease daemon real-time priority, or all nodes longer leases",
    Fault.LEASE_DAEMON: "egressctl doctor",
    Fault.OBJECT: "egressctl validate PATH checks the corrected object",
    Fault.ORPHAN: "create the gateway, or delete the policy",
    Fault.API: "check the network to the API server and the rights of the agent",
    Fault.OTHER: "egressctl doctor",
}
"""Remedies for problems without a hint."""


@dataclass(frozen=True)
class Finding:
    """A fault of the node or the cluster."""

    fault: Fault
    message: str
    hint: str
    """The remedy, for the operator."""

    def __str__(self) -> str:
        return f"{TITLES[self.fault]}: {self.message}; to do: {self.hint}"


def findings(view: NodeSnapshot) -> tuple[Finding, ...]:
    """Return all faults, the worst first; empty if there is none."""
    order = list(TITLES)
    found = [
        *_of_leases(view),
        *_of_egress_ips(view),
        *_of_members(view),
        *_of_problems(view),
        *_of_agent(view),
    ]
    return tuple(sorted(found, key=lambda finding: order.index(finding.fault)))


def verdict(view: NodeSnapshot) -> dict[str, Any]:
    """Return the verdict as plain data: ``ok``, the first line of status as ``text``, and all findings."""
    found = findings(view)
    return {
        "ok": not found,
        "text": str(found[0]) if found else OK,
        "findings": [
            {"fault": str(f.fault), "text": str(f), "message": f.message, "hint": f.hint} for f in found
        ],
    }


def _of_leases(view: NodeSnapshot) -> Iterator[Finding]:
    daemon = view.lease_daemon
    if view.plan.isolated or (daemon and daemon.isolated):
        voters = ", ".join(daemon.voters) if daemon else ""
        message = "this egress node has no contact with a majority of the voters and forwards nothing new"
        yield Finding(
            Fault.ISOLATED, message, f"check network, cluster.port and key between it and {voters or 'them'}"
        )
    silent = daemon is None and view.plan.egress_ips and view.settled
    if silent and not any(problem.kind in OF_DAEMON for problem in view.problems):
        yield Finding(Fault.LEASE_DAEMON, "it has not reported yet", "see keeper.log in the run directory")


OF_DAEMON = (Fault.LEASE_DAEMON, Fault.KEY, Fault.LATE)


def _of_egress_ips(view: NodeSnapshot) -> Iterator[Finding]:
    for egress in view.plan.egress_ips:
        name, _ = master(view, egress)
        state = view.state(egress.id)
        called = " ".join(part for part in (egress.gateway, egress.address) if part)
        if not name and not view.settled:
            yield Finding(Fault.STARTING, f"the master of {called} is not known yet", "wait some seconds")
        elif not name:
            those = ", ".join(egress.eligible)
            hint = f"egressctl doctor on {those}" if those else "label a node as nodeSelector says"
            yield Finding(Fault.NO_MASTER, f"{called}: {no_master_reason(view, egress)}", hint)
        elif state and state.without_quorum:
            hint = "bring the other voters back before this node fails, too"
            yield Finding(Fault.NO_MAJORITY, f"{called} on {name}", hint)


def _of_members(view: NodeSnapshot) -> Iterator[Finding]:
    for member in view.lease_daemon.members if view.lease_daemon else ():
        if member.node == view.plan.node and view.drained:
            continue
        if not member.alive:
            hint = "start the node or its agent; if it is gone for good, delete its Node object"
            yield Finding(Fault.MEMBER, f"{member.node} does not answer: {member.reason}", hint)
        elif not member.ready:
            yield Finding(
                Fault.MEMBER,
                f"{member.node} is not ready: {member.reason}",
                f"egressctl doctor on {member.node}",
            )


def _of_problems(view: NodeSnapshot) -> Iterator[Finding]:
    for problem in view.problems:
        where = f"{problem.source}: {problem.path}: " if problem.path else f"{problem.source}: "
        yield Finding(problem.kind, f"{where}{problem.message}", problem.hint or TO_DO.get(problem.kind, ""))


def _of_agent(view: NodeSnapshot) -> Iterator[Finding]:
    if view.unready and not any(p.kind in (Fault.KERNEL, Fault.PLUGIN) for p in view.problems):
        yield Finding(Fault.NOT_READY, view.unready, "wait some seconds; then see the log of the agent")
    if view.drained:
        message = f"{view.plan.node} takes no egress IP"
        yield Finding(Fault.DRAINED, message, "egressctl undrain when the maintenance is over")
