"""Compute the metrics of one node, as data. Names follow Prometheus: base units, ``_total`` for counters.

The number of series is bounded by the store's gateways, addresses, policies and egress nodes: there is no
series per pod.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...connection_log.report import Report
from ...histogram import Histogram
from ...lease.ipc import Change, KeeperState
from ..snapshot import NodeSnapshot, shown_address
from ..status import status
from .form import Family, Sample, counter, gauge, histogram, reason_label
from .node import of_calls, of_faults, of_kernel, of_numbers, of_policies, of_rounds, of_version
from .node_counters import NodeCounters
from .packets import of_api, of_leases, of_refused

BOUNDS_MS = (0, 50, 100, 150, 200, 250, 300, 400, 600, 1000, 2500, 5000, 10000)
"""Upper bounds of the histogram of silences, milliseconds."""


@dataclass(frozen=True)
class Observation:
    """State of an agent at one moment, for metrics and the page."""

    node: str
    view: NodeSnapshot | None
    """State of the node; None until the store has been read."""
    unready: str = ""
    """Reason why the agent cannot serve pods now; empty if it can."""
    drained: bool = False
    changes: Mapping[str, int] | None = None
    """Changes of masters since the agent started, by egress id."""
    silences: Mapping[tuple[str, bool], Histogram] | None = None
    """Silences of the takeovers since the agent started, by (egress id, takeover was planned), milliseconds."""
    calls: Mapping[tuple[str, int], Histogram] = field(default_factory=dict)
    """Times of the CNI calls since the agent started, by (command, error code), seconds."""
    applied_at: float = 0.0
    """Time of the last round without a failure, Unix time; 0: none yet."""
    rounds_failed: int = 0
    """Rounds that failed since the agent started."""
    api_errors: Mapping[str, int] = field(default_factory=dict)
    """Failed requests to the store since the agent started, by kind."""
    kernel: NodeCounters = field(default_factory=NodeCounters)
    group: Mapping[str, Any] | None = None
    """The state of all nodes, for the page; None if they have not been asked."""
    connection_log: Report | None = None
    """Counters of the connection log; None if the log is off."""


class ChangeCount:
    """Counter of changes of masters, of which the lease daemon reports only the last hundred.

    ``since``: wall clock, seconds. Earlier changes, which an older daemon reports, are not counted.
    """

    def __init__(self, since: float) -> None:
        self._since = since
        self._known: frozenset[Change] | None = None
        self._counted: Counter[str] = Counter()
        self._silences: dict[tuple[str, bool], Histogram] = {}

    def observe(self, daemon: KeeperState | None) -> None:
        """Count the new changes in a state of the daemon. Must be called at least once per hundred changes."""
        if daemon is None:
            return
        for change in daemon.changes:
            # Times are compared only once, since the wall clock may be adjusted. Later, unknown changes are new.
            if change.at >= self._since if self._known is None else change not in self._known:
                self._counted[change.id] += 1
                if change.before and change.after:
                    key = change.id, change.planned
                    self._silences[key] = self._silences.get(key, Histogram(BOUNDS_MS)).plus(change.silent_ms)
        self._known = frozenset(daemon.changes)

    def totals(self) -> dict[str, int]:
        """Return the number of changes by egress id."""
        return dict(self._counted)

    def silences(self) -> dict[tuple[str, bool], Histogram]:
        """Return the silences by (egress id, takeover was planned). The first master of an egress IP ends none."""
        return dict(self._silences)


def families(seen: Observation) -> tuple[Family, ...]:
    """Return all metrics; only those of the agent itself before the store has been read."""
    found = [*_agent(seen), of_version(seen.node), of_calls(seen.node, seen.calls)]
    found += of_rounds(seen.node, seen.applied_at, seen.rounds_failed)
    found += [of_api(seen.node, seen.api_errors), of_refused(seen.node, seen.kernel.refused)]
    if seen.connection_log is not None:
        found += _connection_log(seen.node, seen.connection_log)
    view = seen.view
    if view is not None:
        egress_node = any(view.plan.node in egress.eligible for egress in view.plan.egress_ips)
        found += [*_lease_daemon(view, egress_node), *_egress_ips(view, seen.changes or {})]
        found += [_silences(view, seen.silences or {}), _conflicts(view), _failures(view)]
        found += [
            of_faults(view),
            of_policies(view, egress_node),
            *of_numbers(view),
            *of_leases(view, egress_node),
            *of_kernel(view, seen.kernel),
        ]
    return tuple(found)


def _agent(seen: Observation) -> Iterator[Family]:
    def one(name: str, text: str, value: float) -> Family:
        return gauge(name, text, [Sample({"node": seen.node}, value)])

    yield one("agent_ready", "1 if the plan is in the kernel and nothing fails.", not seen.unready)
    text = "Reason why the agent is not ready, as label."
    unready = [Sample({"node": seen.node, "reason": reason_label(seen.unready)}, 1)] if seen.unready else []
    yield gauge("agent_unready_info", text, unready)
    yield one("drained", "1 if an operator has drained this node.", seen.drained)
    if seen.view is not None:
        yield one("problems", "Problems that status lists.", len(seen.view.problems))
        beside = seen.view.started_beside
        text = "Pods that started beside the plugin, by what happened to their packets until they were found."
        counted = (("held", beside.held), ("loose", beside.loose))
        samples = [Sample({"node": seen.node, "packets": packets}, number) for packets, number in counted]
        yield counter("pods_beside_plugin_total", text, samples)


def _connection_log(node: str, report: Report) -> Iterator[Family]:
    text = "Lines of the connection log since its process started, by what became of them."
    numbers = (("written", report.lines), ("unwritten", report.unwritten))
    samples = [Sample({"node": node, "result": result}, number) for result, number in numbers]
    yield counter("connection_log_lines_total", text, samples)
    text = "Starts and ends of connections that the kernel dropped before the connection log had read them."
    samples = [Sample({"node": node}, report.lost)]
    yield counter("connection_log_lost_events_total", text, samples)


def _lease_daemon(view: NodeSnapshot, egress_node: bool) -> Iterator[Family]:
    daemon = view.lease_daemon
    if daemon is None:
        return
    own = {"node": view.plan.node}
    isolated = "1 if this egress node has no contact to a majority of the voters."
    yield gauge("isolated", isolated, [Sample(own, daemon.isolated)] if egress_node else [])
    yield gauge("voters", "Nodes in the voter set.", [Sample(own, len(daemon.voters))])
    yield gauge("voter_set", "Version of the voter set; 0: none is known.", [Sample(own, daemon.voter_set)])
    members = [({**own, "member": member.node}, member) for member in daemon.members]
    alive, ready = "1 if an egress node is alive.", "1 if an egress node is alive and can be master."
    yield gauge("member_alive", alive, [Sample(labels, member.alive) for labels, member in members])
    yield gauge(
        "member_ready", ready, [Sample(labels, member.alive and member.ready) for labels, member in members]
    )
    reasons = "Reason why an egress node cannot be master, as label."
    yield gauge("member_unready_info", reasons, [
        Sample({**labels, "reason": reason_label(member.reason) if member.alive else "silent"}, 1)
        for labels, member in members if not (member.alive and member.ready)
    ])  # fmt: skip
    messages = "Messages of other nodes' lease daemons, by result."
    counted = [Sample({**own, "result": result}, n) for result, n in sorted(daemon.counters.items())]
    yield counter("messages_total", messages, counted)


def _egress_ips(view: NodeSnapshot, changes: Mapping[str, int]) -> Iterator[Family]:
    rows: list[tuple[dict[str, str], str, dict[str, Any]]] = [
        # In basic mode the address changes with the master. As a label it would end the series at each change, so it
        # is a label of egress_ip_info only.
        ({"gateway": egress.gateway, "ip": egress.address, "node": view.plan.node}, egress.id, answer)
        for egress, answer in zip(view.plan.egress_ips, status(view)["egressIPs"], strict=True)
    ]
    names = "An egress IP with its mode, the name of its master and its source address, as labels."
    yield gauge("egress_ip_info", names, [
        Sample({**labels, "mode": answer["mode"], "master": answer["master"], "shown": shown_address(view, egress)}, 1)
        for (labels, _, answer), egress in zip(rows, view.plan.egress_ips, strict=True)
    ])  # fmt: skip
    yield gauge("master", "1 if this egress node is the master.", [
        Sample(labels, answer["state"] == "master")
        for labels, _, answer in rows if view.plan.node in answer["eligible"]
    ])  # fmt: skip
    yield gauge("master_known", "1 if this node knows a master.", [
        Sample(labels, bool(answer["master"])) for labels, _, answer in rows
    ])  # fmt: skip
    yield gauge("epoch", "Epoch of the egress IP: it grows with each new master.", [
        Sample(labels, answer["epoch"]) for labels, _, answer in rows
    ])  # fmt: skip
    yield gauge("pods", "Pods attached to this node that use an egress IP.", [
        Sample(labels, answer["pods"]) for labels, _, answer in rows
    ])  # fmt: skip
    counted = [Sample(labels, changes.get(identity, 0)) for labels, identity, _ in rows]
    text = "Changes of the master since the agent started, including losses without a successor."
    yield counter("master_changes_total", text, counted)
    text = "Upper bound of the time without service before the last takeover; 0: it was planned, or is the first."
    yield gauge("last_change_silence_seconds", text, [
        Sample(labels, silent) for labels, identity, _ in rows if (silent := _silence(view, identity)) is not None
    ])  # fmt: skip


def _silence(view: NodeSnapshot, identity: str) -> float | None:
    """Return the silence before the last takeover, seconds; None if there was no takeover yet."""
    changes = view.lease_daemon.changes if view.lease_daemon else ()
    return next((c.silent_ms / 1000 for c in reversed(changes) if c.id == identity and c.after), None)


def _silences(view: NodeSnapshot, silences: Mapping[tuple[str, bool], Histogram]) -> Family:
    """Return the silences that an egress node knows. Workers know them, too, but do not repeat them."""
    text = "Upper bound of the time without service before each takeover since the agent started."
    return histogram("takeover_silence_seconds", text, [
        (
            {"gateway": egress.gateway, "ip": egress.address, "node": view.plan.node, "planned": str(planned).lower()},
            silences.get((egress.id, planned), Histogram(BOUNDS_MS)),
        )
        for egress in view.plan.egress_ips if view.plan.node in egress.eligible
        for planned in (False, True)
    ], unit=1000)  # fmt: skip


def _conflicts(view: NodeSnapshot) -> Family:
    text = "Another machine, by its MAC, that uses a virtual address which this node serves."
    conflicts = view.lease_daemon.conflicts if view.lease_daemon else ()
    return gauge("conflict", text, [
        Sample({"ip": c.address, "mac": c.mac, "interface": c.interface, "node": view.plan.node}, 1) for c in conflicts
    ])  # fmt: skip


def _failures(view: NodeSnapshot) -> Family:
    text = "What the kernel did not do for a virtual address since the lease daemon started; no address: for all."
    failures = view.lease_daemon.failures if view.lease_daemon else ()
    samples = (Sample({"ip": f.address, "what": f.what, "node": view.plan.node}, f.number) for f in failures)
    return counter("kernel_failures_total", text, samples)
