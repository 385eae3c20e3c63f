"""Compute the metrics of one node, as data. Names follow Prometheus: base units, ``_total`` for counters.

The number of series is bounded by the store's gateways, addresses and egress nodes: there is no series per pod.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..connection_log.report import Report
from ..lease.ipc import Change, KeeperState
from .snapshot import NodeSnapshot, shown_address
from .status import status

PREFIX = "egress_gateway_"
BOUNDS_MS = (0, 50, 100, 150, 200, 250, 300, 400, 600, 1000, 2500, 5000, 10000)
"""Upper bounds of the histogram of silences, milliseconds."""


@dataclass(frozen=True)
class Sample:
    """One value of a metric."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""
    """Suffix of the name: a histogram has samples with three names."""


@dataclass(frozen=True)
class Family:
    """All samples of one metric. The name of a counter ends with ``_total``."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Distribution:
    """A histogram of silences: cumulative counts for :data:`BOUNDS_MS`, number and sum of all."""

    counts: tuple[int, ...] = (0,) * len(BOUNDS_MS)
    number: int = 0
    sum_ms: int = 0

    def plus(self, silent_ms: int) -> Distribution:
        """Return the distribution with one more silence, milliseconds."""
        counts = (count + (silent_ms <= bound) for count, bound in zip(self.counts, BOUNDS_MS, strict=True))
        return Distribution(tuple(counts), self.number + 1, self.sum_ms + silent_ms)


@dataclass(frozen=True)
class Observation:
    """State of an agent at one moment."""

    node: str
    view: NodeSnapshot | None
    """State of the node; None until the store has been read."""
    unready: str = ""
    """Reason why the agent cannot serve pods now; empty if it can."""
    drained: bool = False
    changes: Mapping[str, int] | None = None
    """Changes of masters since the agent started, by egress id."""
    silences: Mapping[tuple[str, bool], Distribution] | None = None
    """Silences of the takeovers since the agent started, by (egress id, takeover was planned)."""
    connection_log: Report | None = None
    """Numbers of the log of connections; None if it is off."""


class ChangeCount:
    """Counts changes of masters. The lease daemon reports only the last hundred of them.

    ``since``: wall clock, seconds. Earlier changes, which an older daemon reports, are not counted.
    """

    def __init__(self, since: float) -> None:
        self._since = since
        self._known: frozenset[Change] | None = None
        self._counted: Counter[str] = Counter()
        self._silences: dict[tuple[str, bool], Distribution] = {}

    def observe(self, daemon: KeeperState | None) -> None:
        """Count the new changes in a state of the daemon. Must be called at least once per hundred changes."""
        if daemon is None:
            return
        for change in daemon.changes:
            # Times are compared once only, since the wall clock may be set. Later, unknown changes are new.
            if change.at >= self._since if self._known is None else change not in self._known:
                self._counted[change.id] += 1
                if change.before and change.after:
                    key = change.id, change.planned
                    self._silences[key] = self._silences.get(key, Distribution()).plus(change.silent_ms)
        self._known = frozenset(daemon.changes)

    def totals(self) -> dict[str, int]:
        """Return the number of changes by egress id."""
        return dict(self._counted)

    def silences(self) -> dict[tuple[str, bool], Distribution]:
        """Return the silences by (egress id, takeover was planned). The first master of an egress IP ends none."""
        return dict(self._silences)


def families(seen: Observation) -> tuple[Family, ...]:
    """Return all metrics; only a few before the store has been read."""
    found = [*_agent(seen)]
    if seen.connection_log is not None:
        found += _connection_log(seen.node, seen.connection_log)
    if seen.view is not None:
        found += [*_lease_daemon(seen.view), *_egress_ips(seen.view, seen.changes or {})]
        found += [_silences(seen.view, seen.silences or {}), _conflicts(seen.view), _failures(seen.view)]
    return tuple(found)


def _agent(seen: Observation) -> Iterator[Family]:
    def one(name: str, text: str, value: float) -> Family:
        return _gauge(name, text, [Sample({"node": seen.node}, value)])

    yield one("agent_ready", "1 if the plan is in the kernel and nothing fails.", not seen.unready)
    yield one("drained", "1 if an operator has drained this node.", seen.drained)
    if seen.view is not None:
        yield one("problems", "Problems that status lists.", len(seen.view.problems))
        beside = seen.view.started_beside
        text = "Pods that started beside the plugin, by what happened to their packets until they were found."
        counted = (("held", beside.held), ("loose", beside.loose))
        samples = [Sample({"node": seen.node, "packets": packets}, number) for packets, number in counted]
        yield Family(f"{PREFIX}pods_beside_plugin_total", "counter", text, tuple(samples))


def _connection_log(node: str, report: Report) -> Iterator[Family]:
    text = "Lines of the connection log since its process started, by what became of them."
    numbers = (("written", report.lines), ("unwritten", report.unwritten))
    samples = [Sample({"node": node, "result": result}, number) for result, number in numbers]
    yield Family(f"{PREFIX}connection_log_lines_total", "counter", text, tuple(samples))
    text = "Starts and ends of connections that the kernel dropped before the connection log had read them."
    samples = [Sample({"node": node}, report.lost)]
    yield Family(f"{PREFIX}connection_log_lost_events_total", "counter", text, tuple(samples))


def _lease_daemon(view: NodeSnapshot) -> Iterator[Family]:
    daemon = view.lease_daemon
    if daemon is None:
        return
    own = {"node": view.plan.node}
    isolated = "1 if this egress node has no contact to a majority of the voters."
    yield _gauge("isolated", isolated, [Sample(own, daemon.isolated)])
    yield _gauge("voters", "Nodes in the voter set.", [Sample(own, len(daemon.voters))])
    yield _gauge("voter_set", "Version of the voter set; 0: none is known.", [Sample(own, daemon.voter_set)])
    members = [({**own, "member": member.node}, member) for member in daemon.members]
    alive, ready = "1 if an egress node is alive.", "1 if an egress node is alive and can be master."
    yield _gauge("member_alive", alive, [Sample(labels, member.alive) for labels, member in members])
    yield _gauge(
        "member_ready", ready, [Sample(labels, member.alive and member.ready) for labels, member in members]
    )
    messages = "Messages of other nodes' lease daemons, by result."
    counted = [Sample({**own, "result": result}, n) for result, n in sorted(daemon.counters.items())]
    yield Family(f"{PREFIX}messages_total", "counter", messages, tuple(counted))


def _egress_ips(view: NodeSnapshot, changes: Mapping[str, int]) -> Iterator[Family]:
    rows: list[tuple[dict[str, str], str, dict[str, Any]]] = [
        # In basic mode the address changes with the master. As a label it would end the series at each change, so it
        # is a label of egress_ip_info only.
        ({"gateway": egress.gateway, "ip": egress.address, "node": view.plan.node}, egress.id, answer)
        for egress, answer in zip(view.plan.egress_ips, status(view)["egressIPs"], strict=True)
    ]
    names = "An egress IP with its mode, the name of its master and its source address, as labels."
    information = [
        Sample(
            {
                **labels,
                "mode": answer["mode"],
                "master": answer["master"],
                "shown": shown_address(view, egress),
            },
            1,
        )
        for (labels, _, answer), egress in zip(rows, view.plan.egress_ips, strict=True)
    ]
    yield _gauge("egress_ip_info", names, information)
    yield _gauge("master", "1 if this node is the master.", [
        Sample(labels, answer["state"] == "master") for labels, _, answer in rows
    ])  # fmt: skip
    yield _gauge("master_known", "1 if this node knows a master.", [
        Sample(labels, bool(answer["master"])) for labels, _, answer in rows
    ])  # fmt: skip
    yield _gauge("epoch", "Epoch of the egress IP: it grows with each new master.", [
        Sample(labels, answer["epoch"]) for labels, _, answer in rows
    ])  # fmt: skip
    yield _gauge("pods", "Pods attached to this node that use an egress IP.", [
        Sample(labels, answer["pods"]) for labels, _, answer in rows
    ])  # fmt: skip
    counted = [Sample(labels, changes.get(identity, 0)) for labels, identity, _ in rows]
    text = "Changes of the master since the agent started, including losses without a successor."
    yield Family(f"{PREFIX}master_changes_total", "counter", text, tuple(counted))
    text = "Upper bound of the time without service before the last takeover; 0: it was planned, or is the first."
    yield _gauge("last_change_silence_seconds", text, [
        Sample(labels, silent) for labels, identity, _ in rows if (silent := _silence(view, identity)) is not None
    ])  # fmt: skip


def _silence(view: NodeSnapshot, identity: str) -> float | None:
    """Return the silence before the last takeover, seconds; None if there was no takeover yet."""
    changes = view.lease_daemon.changes if view.lease_daemon else ()
    return next((c.silent_ms / 1000 for c in reversed(changes) if c.id == identity and c.after), None)


def _silences(view: NodeSnapshot, silences: Mapping[tuple[str, bool], Distribution]) -> Family:
    text = "Upper bound of the time without service before each takeover since the agent started."
    samples: list[Sample] = []
    for egress in view.plan.egress_ips:
        for planned in (False, True):
            labels = {"gateway": egress.gateway, "ip": egress.address, "node": view.plan.node}
            labels["planned"] = str(planned).lower()
            seen = silences.get((egress.id, planned), Distribution())
            bounds = [*(str(bound / 1000) for bound in BOUNDS_MS), "+Inf"]
            for bound, count in zip(bounds, (*seen.counts, seen.number), strict=True):
                samples.append(Sample({**labels, "le": bound}, count, "_bucket"))
            samples += [Sample(labels, seen.number, "_count"), Sample(labels, seen.sum_ms / 1000, "_sum")]
    return Family(f"{PREFIX}takeover_silence_seconds", "histogram", text, tuple(samples))


def _conflicts(view: NodeSnapshot) -> Family:
    text = "Another machine, by its MAC, that uses a virtual address which this node serves."
    conflicts = view.lease_daemon.conflicts if view.lease_daemon else ()
    return _gauge("conflict", text, [
        Sample({"ip": c.address, "mac": c.mac, "interface": c.interface, "node": view.plan.node}, 1) for c in conflicts
    ])  # fmt: skip


def _failures(view: NodeSnapshot) -> Family:
    text = "What the kernel did not do for a virtual address since the lease daemon started; no address: for all."
    failures = view.lease_daemon.failures if view.lease_daemon else ()
    samples = (Sample({"ip": f.address, "what": f.what, "node": view.plan.node}, f.number) for f in failures)
    return Family(f"{PREFIX}kernel_failures_total", "counter", text, tuple(samples))


def _gauge(name: str, text: str, samples: Iterable[Sample]) -> Family:
    return Family(PREFIX + name, "gauge", text, tuple(samples))
