"""Compute the metrics of the agent itself and of its node's kernel, as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from cni.plan import PlanEgressIP
from cni.version import VERSION

from ...histogram import Histogram
from ...manifests.model import Fault
from ..snapshot import NodeSnapshot
from ..verdict import findings
from .form import Family, Sample, counter, gauge, histogram
from .node_counters import NodeCounters


def of_faults(view: NodeSnapshot) -> Family:
    """Return the number of findings of each kind; 0 for kinds without findings."""
    counted = Counter(finding.fault for finding in findings(view))
    text = "What is wrong, as in the verdict of egressctl status, by kind."
    return gauge("faults", text, [
        Sample({"node": view.plan.node, "fault": fault.value}, counted[fault]) for fault in Fault
    ])  # fmt: skip


def of_version(node: str) -> Family:
    """Return the version of the agent, as label."""
    return gauge(
        "build_info", "Version of the agent, as label.", [Sample({"node": node, "version": VERSION}, 1)]
    )


def of_rounds(node: str, applied_at: float, failed: int) -> Iterator[Family]:
    """Yield the time of the last successful round, and the number of failed rounds."""
    text = "Time of the last round that brought the kernel to the plan without a failure, Unix time; 0: none yet."
    yield gauge("last_round_timestamp_seconds", text, [Sample({"node": node}, applied_at)])
    text = "Rounds that failed since the agent started."
    yield counter("rounds_failed_total", text, [Sample({"node": node}, failed)])


def of_calls(node: str, calls: Mapping[tuple[str, int], Histogram]) -> Family:
    """Return the CNI calls by command and error code."""
    text = "Time from a CNI call to its answer, by command and error code (0: no error), since the agent started."
    return histogram("cni_call_duration_seconds", text, [
        ({"node": node, "command": command, "code": str(code)}, found)
        for (command, code), found in sorted(calls.items())
    ])  # fmt: skip


def of_policies(view: NodeSnapshot, egress_node: bool) -> Family:
    """Return the pods of this node that each policy selects.

    The sum over all nodes is 0 for a policy that selects nothing. So egress nodes name each policy, and others only
    those with pods.
    """
    pods: dict[str, set[tuple[str, str]]] = {}
    sets = {found.group: found.policies for found in view.plan.policy_sets}
    for attachment in view.attachments:
        for policy in sets.get(attachment.group, ()):
            pods.setdefault(policy, set()).add((attachment.namespace, attachment.name))
    gateways = {policy.name: policy.gateway for policy in view.inventory.policies}
    text = "Pods attached to this node that a policy selects. Only egress nodes name policies without pods."
    return gauge("policy_pods", text, [
        Sample({"node": view.plan.node, "policy": name, "gateway": gateway}, len(pods.get(name, ())))
        for name, gateway in sorted(gateways.items()) if egress_node or name in pods
    ])  # fmt: skip


def of_numbers(view: NodeSnapshot) -> Iterator[Family]:
    """Yield the used and the available numbers of the packet mark."""
    node, plan = view.plan.node, view.plan
    groups = {attachment.group for attachment in view.attachments}
    # Others are numbered in advance, as long as numbers are free.
    needed = [found for found in plan.policy_sets if found.group in groups]
    egress_ips = {each for found in needed for each in (*found.egress_ids, *found.egress_ids6)}
    routed = {egress.id for egress in plan.egress_ips if egress.routed and plan.node in egress.eligible}
    rows = (
        ("egress_ips", len(egress_ips | routed), plan.layout.numbers),
        ("policy_sets", len(needed), plan.layout.sets),
    )
    text = "Numbers in the packet mark that this node's pods use: of egress IPs, and of policy sets."
    yield gauge("mark_numbers", text, [Sample({"node": node, "of": name}, used) for name, used, _ in rows])
    text = "Numbers that the packet mark has room for (mark.mask)."
    yield gauge(
        "mark_numbers_limit", text, [Sample({"node": node, "of": name}, limit) for name, _, limit in rows]
    )


def of_kernel(view: NodeSnapshot, found: NodeCounters) -> Iterator[Family]:
    """Yield the traffic of the tunnels and the fill of the connection table."""
    own = {"node": view.plan.node}
    rows = [
        (egress, found.devices[egress.device])
        for egress in view.plan.egress_ips
        if egress.device in found.devices
    ]

    def each(sent: str, received: str) -> list[Sample]:
        return [
            Sample({**_labels(egress), **own, "direction": direction}, getattr(counters, name))
            for egress, counters in rows
            for direction, name in (("sent", sent), ("received", received))
        ]

    text = "in the tunnel to the master of an egress IP: sent by workers, received by the master. Without answers."
    yield counter("tunnel_bytes_total", f"Bytes {text}", each("sent_bytes", "received_bytes"))
    yield counter("tunnel_packets_total", f"Packets {text}", each("sent_packets", "received_packets"))
    text = "Packets that the tunnel of an egress IP dropped, errors included."
    yield counter("tunnel_dropped_packets_total", text, each("sent_dropped", "received_dropped"))
    gauges = (
        ("conntrack_entries", "Entries of the node's connection table.", found.connections),
        (
            "conntrack_entries_limit",
            "Entries that the node's connection table has room for.",
            found.connections_limit,
        ),
    )
    for name, message, value in gauges:
        yield gauge(name, message, [] if value is None else [Sample(own, value)])
    text = "Connections of the node without an entry: the connection table was full, or their port was taken."
    refused = found.connections_refused
    yield counter("conntrack_refused_total", text, [] if refused is None else [Sample(own, refused)])


def _labels(egress: PlanEgressIP) -> dict[str, str]:
    return {"gateway": egress.gateway, "ip": egress.address}
