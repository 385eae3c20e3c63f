"""The numbers of one node for a monitoring system, as data. Names follow Prometheus: base units, ``_total`` counters.

The number of series is bounded by the store's gateways, addresses and egress nodes: no pod has one of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..lease.ipc import Change, KeeperState
from .snapshot import NodeSnapshot, shown_address
from .status import status

PREFIX = "egress_gateway_"
BOUNDS_MS = (0, 50, 100, 150, 200, 250, 300, 400, 600, 1000, 2500, 5000, 10000)
"""Upper bounds of the buckets of silences."""


@dataclass(frozen=True)
class Sample:
    labels: Mapping[str, str]
    value: float
    suffix: str = ""
    """Of the name: a histogram has samples of three names."""


@dataclass(frozen=True)
class Family:
    """Samples of one name. The name of a counter ends with ``_total``."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Distribution:
    """How many silences there were of at most each of :data:`BOUNDS_MS`, how many in all, and their sum."""

    counts: tuple[int, ...] = (0,) * len(BOUNDS_MS)
    number: int = 0
    sum_ms: int = 0

    def plus(self, silent_ms: int) -> Distribution:
        """Return the distribution with one silence more."""
        counts = (count + (silent_ms <= bound) for count, bound in zip(self.counts, BOUNDS_MS, strict=True))
        return Distribution(tuple(counts), self.number + 1, self.sum_ms + silent_ms)


@dataclass(frozen=True)
class Observation:
    """What can be seen of an agent at one moment."""

    node: str
    view: NodeSnapshot | None
    """None until the store has been read."""
    unready: str = ""
    """Why the agent cannot serve pods now; empty where it can."""
    drained: bool = False
    changes: Mapping[str, int] | None = None
    """Changes of masters since the agent started, by egress id."""
    silences: Mapping[tuple[str, bool], Distribution] | None = None
    """The silences of the takeovers since then, by egress id and whether the takeover was planned."""


class ChangeCount:
    """Counts the changes of masters, of which the keeper tells the last hundred only.

    ``since``: wall clock, seconds; what an older keeper tells of the time before is not counted.
    """

    def __init__(self, since: float) -> None:
        self._since = since
        self._known: frozenset[Change] | None = None
        self._counted: Counter[str] = Counter()
        self._silences: dict[tuple[str, bool], Distribution] = {}

    def hear(self, keeper: KeeperState | None) -> None:
        """To be called more often than masters change a hundred times."""
        if keeper is None:
            return
        for change in keeper.changes:
            # Only once is the time looked at: clocks are set, and what was not told before is news.
            if change.at >= self._since if self._known is None else change not in self._known:
                self._counted[change.id] += 1
                if change.before and change.after:
                    key = change.id, change.planned
                    self._silences[key] = self._silences.get(key, Distribution()).plus(change.silent_ms)
        self._known = frozenset(keeper.changes)

    def totals(self) -> dict[str, int]:
        """By egress id."""
        return dict(self._counted)

    def silences(self) -> dict[tuple[str, bool], Distribution]:
        """By egress id, and whether the takeover was planned. The first master of an egress IP ends no silence."""
        return dict(self._silences)


def families(seen: Observation) -> tuple[Family, ...]:
    """All that there is to say; little before the store has been read."""
    found = [*_agent(seen)]
    if seen.view is not None:
        found += [*_keeper(seen.view), *_egress_ips(seen.view, seen.changes or {})]
        found += [_silences(seen.view, seen.silences or {}), _conflicts(seen.view)]
    return tuple(found)


def _agent(seen: Observation) -> Iterator[Family]:
    def one(name: str, text: str, value: float) -> Family:
        return _gauge(name, text, [Sample({"node": seen.node}, value)])

    yield one("agent_ready", "Whether the plan stands in the kernel and nothing fails.", not seen.unready)
    yield one("drained", "Whether an operator has drained this node.", seen.drained)
    if seen.view is not None:
        yield one("problems", "Problems that status lists.", len(seen.view.problems))


def _keeper(view: NodeSnapshot) -> Iterator[Family]:
    keeper = view.keeper
    if keeper is None:
        return
    own = {"node": view.plan.node}
    isolated = "Whether this egress node hears no majority of the voters."
    yield _gauge("isolated", isolated, [Sample(own, keeper.isolated)])
    yield _gauge("voters", "Nodes in the voter set.", [Sample(own, len(keeper.voters))])
    yield _gauge("voter_set", "Version of the voter set; 0: none is known.", [Sample(own, keeper.voter_set)])
    members = [({**own, "member": member.node}, member) for member in keeper.members]
    alive, ready = "Whether an egress node is heard.", "Whether an egress node is heard and can be master."
    yield _gauge("member_alive", alive, [Sample(labels, member.alive) for labels, member in members])
    yield _gauge(
        "member_ready", ready, [Sample(labels, member.alive and member.ready) for labels, member in members]
    )
    messages = "Messages of other nodes' lease keepers, by what became of them."
    counted = [Sample({**own, "result": result}, n) for result, n in sorted(keeper.counters.items())]
    yield Family(f"{PREFIX}messages_total", "counter", messages, tuple(counted))


def _egress_ips(view: NodeSnapshot, changes: Mapping[str, int]) -> Iterator[Family]:
    rows: list[tuple[dict[str, str], str, dict[str, Any]]] = [
        # In basic mode the address is another one after each change, which would end the series at the moment that
        # it is there to show: it stands in the information instead.
        ({"gateway": egress.gateway, "ip": egress.address, "node": view.plan.node}, egress.id, answer)
        for egress, answer in zip(view.plan.egress_ips, status(view)["egressIPs"], strict=True)
    ]
    names = (
        "An egress IP with its mode, the name of its master and the address that the outside sees, as labels."
    )
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
    yield _gauge("master", "Whether this node is the master.", [
        Sample(labels, answer["state"] == "master") for labels, _, answer in rows
    ])  # fmt: skip
    yield _gauge("master_known", "Whether this node knows a master.", [
        Sample(labels, bool(answer["master"])) for labels, _, answer in rows
    ])  # fmt: skip
    yield _gauge("epoch", "Epoch of the egress IP: it grows with each new master.", [
        Sample(labels, answer["epoch"]) for labels, _, answer in rows
    ])  # fmt: skip
    yield _gauge("pods", "Pods attached to this node that an egress IP is for.", [
        Sample(labels, answer["pods"]) for labels, _, answer in rows
    ])  # fmt: skip
    counted = [Sample(labels, changes.get(identity, 0)) for labels, identity, _ in rows]
    text = "Changes of the master that this node has seen since its agent started, losses without a successor too."
    yield Family(f"{PREFIX}master_changes_total", "counter", text, tuple(counted))
    text = (
        "How long nothing was served before the last takeover, at most; 0: it was planned, or is the first."
    )
    yield _gauge("last_change_silence_seconds", text, [
        Sample(labels, silent) for labels, identity, _ in rows if (silent := _silence(view, identity)) is not None
    ])  # fmt: skip


def _silence(view: NodeSnapshot, identity: str) -> float | None:
    """Seconds; None where no master has been followed by another yet."""
    changes = view.keeper.changes if view.keeper else ()
    return next((c.silent_ms / 1000 for c in reversed(changes) if c.id == identity and c.after), None)


def _silences(view: NodeSnapshot, silences: Mapping[tuple[str, bool], Distribution]) -> Family:
    text = "How long nothing was served before each takeover that this node has seen since its agent started, at most."
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
    text = "Another machine, by its MAC, that claims a virtual address which this node serves."
    conflicts = view.keeper.conflicts if view.keeper else ()
    return _gauge("conflict", text, [
        Sample({"ip": c.address, "mac": c.mac, "interface": c.interface, "node": view.plan.node}, 1) for c in conflicts
    ])  # fmt: skip


def _gauge(name: str, text: str, samples: Iterable[Sample]) -> Family:
    return Family(PREFIX + name, "gauge", text, tuple(samples))
