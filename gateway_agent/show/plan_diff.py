"""Compare two plans of one node: find the pods and addresses that an edit of the manifests would change. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cni.plan import Plan, PlanEgressIP, PodIdentity

from ..policy.pods.selection import Selection
from . import exit_diff
from .exit_diff import DIRECT, Change, Exits

DROPPED = "dropped"
EVERYTHING = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True)
class Pod:
    """One pod, with its labels as they are known before and after the edit."""

    before: PodIdentity
    after: PodIdentity
    node: str
    """Name of the pod's node; empty if it is not known."""
    addresses: tuple[str, ...] = ()
    """Addresses of the pod; empty for a pod of another node."""


@dataclass(frozen=True)
class PodChange:
    """A pod whose packets leave by another exit after the edit."""

    pod: Pod
    changes: tuple[Change, ...]

    def ends(self, connections: Iterable[tuple[str, str]]) -> int:
        """Return the number of connections that end.

        ``connections``: source and remote address of each open connection.
        """
        return sum(
            source in self.pod.addresses and any(change.concerns(remote) for change in self.changes)
            for source, remote in connections
        )


def of_pods(before: Plan, after: Plan, pods: Iterable[Pod]) -> Iterator[PodChange]:
    """Yield the pods whose packets would leave by another exit, in the given order."""
    one, other = _Exits(before), _Exits(after)
    for pod in pods:
        if found := exit_diff.changes(one.of(pod.before), other.of(pod.after)):
            yield PodChange(pod, found)


class _Exits:
    """The exits of pods by one plan."""

    def __init__(self, plan: Plan) -> None:
        self._selection = Selection(plan)
        self._names = {egress.id: _name(egress) for egress in plan.egress_ips}

    def of(self, pod: PodIdentity) -> Exits:
        """Return the exits of a pod. Packets of a pod with unknown labels that may be selected are dropped."""
        policies = self._selection.policies_for(pod)
        if policies == ():
            return {}
        policy_set = self._selection.set_for(pod) if policies else None
        if policy_set is None:
            return dict.fromkeys(EVERYTHING, DROPPED)
        return {each.prefix: self._names.get(each.egress_id, DROPPED) for each in policy_set.destinations}


def _name(egress: PlanEgressIP) -> str:
    """Return the name of an exit: gateway and virtual address."""
    if not egress.eligible and not egress.master:
        return DIRECT if egress.direct else DROPPED
    return f"{egress.gateway} {egress.address}".strip()


def of_addresses(before: Plan, after: Plan) -> list[dict[str, Any]]:
    """Return the egress IPs that are added, removed, or can be served by other nodes than before."""
    one, other = ({egress.id: egress for egress in plan.egress_ips} for plan in (before, after))
    rows = (_address(one.get(identity), other.get(identity)) for identity in dict.fromkeys((*one, *other)))
    return [row for row in rows if row["change"]]


def _address(before: PlanEgressIP | None, after: PlanEgressIP | None) -> dict[str, Any]:
    nodes = [list(egress.eligible) if egress else [] for egress in (before, after)]
    known = after or before
    change = "" if before and after else "new" if after else "gone"
    if before and after and nodes[0] != nodes[1]:
        leaves = before.master and before.master not in after.eligible
        change = "master changes" if leaves else "nodes"
    return {
        "gateway": known.gateway if known else "",
        "ip": known.address if known else "",
        "change": change,
        "master": before.master if before else "",
        "nodesBefore": nodes[0],
        "nodesAfter": nodes[1],
    }


def shown(
    found: Sequence[PodChange], addresses: list[dict[str, Any]], counts: Mapping[int, int] | None, node: str
) -> dict[str, Any]:
    """Return the answer of ``egressctl diff -o json``.

    ``counts``: number of ended connections by place in ``found``; None: the connections could not be counted.
    """
    return {
        "node": node,
        "pods": [_pod(each, None if counts is None else counts.get(n)) for n, each in enumerate(found)],
        "egressIPs": addresses,
        "connections": None if counts is None else sum(counts.values()),
    }


def _pod(found: PodChange, connections: int | None) -> dict[str, Any]:
    by_exits: dict[tuple[str, str], list[str]] = {}
    for change in found.changes:
        by_exits.setdefault((change.before, change.after), []).extend(change.prefixes)
    pod = found.pod
    return {
        "namespace": pod.after.namespace,
        "name": pod.after.name,
        "node": pod.node,
        "changes": [
            {"destinations": prefixes, "before": before, "after": after}
            for (before, after), prefixes in by_exits.items()
        ],
        "connections": connections,
    }
