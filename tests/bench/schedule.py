"""A random schedule of all faults; what must never happen is looked for in the captures.

``.venv/bin/python -m tests.bench.schedule [--failovers N] [--seed N] [--timers default|tuned]``; needs root. Several
addresses of one gateway are spread over four egress nodes; a failover is the change of one address's owner. The seed
that it prints gives the same faults again, though not the same instants.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from ..lab import topology
from ..lab.lab import Lab
from ..lab.node import Node
from ..lab.topology import VIRTUAL
from ..lab.waiting import NotInTime, until
from ..lab.watch import Watch
from .failover import GATEWAY, LOGS, TIMERS
from .failures import Failure
from .virtual import ALONE_MS, FROZEN_S, RECOVERY_S, VIRTUAL_FAILURES, prepare

GATEWAYS = 4
"""Egress nodes in the lab. Three of them vote, so two faults at once may take the majority away, or not."""
ADDRESSES = (VIRTUAL, *(f"172.16.0.{last}" for last in range(51, 56)))
PODS = 4
LASTS = (0.02, 2.0)
"""Seconds that a fault lasts, from and to: also shorter than a lease, so it heals in the middle of an election."""
BUSIEST_SHARE = 0.8
"""The share of faults that strike the node with the most addresses; the others strike any other."""
SECOND_FAULT_SHARE = 0.4
"""The share of faults during which another node is struck, too."""
RESUMED = "node resumed"
RESUMED_EACH = 5
"""Number of decks in which the fault that lasts for ten seconds comes once."""
START_TIMEOUT_S = 30.0
"""Seconds that an agent and its keeper may take to start, on a busy machine."""


@dataclass(frozen=True)
class Fault:
    """One entry of a schedule."""

    failure: Failure
    at_busiest: bool
    other: int
    """Index of the node among the others, if the busiest is not struck."""
    seconds: float


@dataclass(frozen=True)
class Event:
    """A fault begins or ends."""

    at: float
    """Seconds after the beginning of its round."""
    fault: Fault
    heals: bool


@dataclass
class Report:
    """What a schedule has brought."""

    faults: Counter[str] = field(default_factory=Counter)
    failovers: Counter[str] = field(default_factory=Counter)
    """Failovers by the last fault before each."""
    rounds: int = 0
    doubled: int = 0
    """Rounds in which two nodes were struck at the same time."""
    problems: list[str] = field(default_factory=list)
    blind: float = 0.0
    """The longest pause of an observer, milliseconds."""
    silent: float = 0.0
    """The longest silence of a pod, milliseconds: with two nodes struck at once also until a majority was back."""

    def __str__(self) -> str:
        caused = ", ".join(f"{name} {count}" for name, count in self.failovers.most_common())
        return (
            f"{self.failovers.total()} failovers by {self.faults.total()} faults in {self.rounds} rounds, "
            f"{self.doubled} of them with two nodes struck at once ({caused}); "
            f"an observer paused for {self.blind:.1f} ms at most, a pod was silent for {self.silent:.0f} ms at most"
        )


def deck(source: random.Random) -> Iterator[Fault]:
    """Without end, every kind of fault once before any comes again; the ten seconds of one come less often."""
    number = 0
    while True:
        failures = [f for f in VIRTUAL_FAILURES if f.name != RESUMED or number % RESUMED_EACH == 0]
        source.shuffle(failures)
        for failure in failures:
            # Short faults are as frequent as long ones: the exponent is even, not the time.
            seconds = LASTS[0] * (LASTS[1] / LASTS[0]) ** source.random()
            at_busiest, other = source.random() < BUSIEST_SHARE, source.randrange(60)
            yield _lasting(Fault(failure, at_busiest, other, seconds))
        number += 1


def _lasting(fault: Fault) -> Fault:
    """Return a lasting fault in three steps (strike, last, heal), during which other nodes can be struck."""
    if fault.failure.name != RESUMED:
        return fault
    frozen = next(failure for failure in VIRTUAL_FAILURES if failure.name == "node frozen")
    return replace(
        fault, failure=replace(fault.failure, strike=frozen.strike, heal=frozen.heal), seconds=FROZEN_S
    )


def plan(source: random.Random, faults: Iterator[Fault]) -> list[Event]:
    """Return a round: one fault, and others that strike while it lasts; they may outlast it."""
    first = next(faults)
    events = [Event(0.0, first, False), Event(first.seconds, first, True)]
    at = source.random() * min(first.seconds, 1.0)
    while at < first.seconds and (first.failure.name == RESUMED or source.random() < SECOND_FAULT_SHARE):
        second = next(faults)
        if second.failure.name in (first.failure.name, RESUMED):
            continue
        events += [Event(at, second, False), Event(at + second.seconds, second, True)]
        at += second.seconds + 1 + source.random()
    return sorted(events, key=lambda event: event.at)


class Schedule:
    """Rounds of faults in a lab under watch."""

    def __init__(self, lab: Lab, watch: Watch, source: random.Random, log: Callable[[str], None]) -> None:
        self.report = Report()
        self._lab = lab
        self._watch = watch
        self._source = source
        self._log = log
        self._faults = deck(source)
        self._struck: dict[Fault, str] = {}
        """Node that each fault of this round has struck, until it is healed."""
        self._strikes: list[tuple[int, str]] = [(0, "beginning")]

    def run(self, failovers: int) -> Report:
        """Until addresses have changed hands so often, or something is wrong."""
        while self.report.failovers.total() < failovers and not self.report.problems:
            before = self.report.failovers.total()
            message = self.round()
            self.report.failovers = self._caused()
            changes = self.report.failovers.total() - before
            self._log(f"{before + changes:>4}  {message}: {changes} changes")
        self.report.problems += [
            problem for problem in self._watch.end() if problem not in self.report.problems
        ]
        self.report.blind = max(self._watch.pauses.values())
        self.report.silent = max(self._watch.silences.values())
        return self.report

    def round(self) -> str:
        """All its faults, and the time until all is well again. Returns what it was, in words."""
        message, most = [], 0
        began = time.monotonic()
        with self._healed_at_last():
            for event in plan(self._source, self._faults):
                _wait_until(began + event.at)
                if event.heals:
                    self._heal(event.fault)
                else:
                    message.append(self._strike(event.fault))
                most = max(most, len(self._struck))
        self.report.rounds += 1
        self.report.doubled += most > 1
        text = " + ".join(message)
        self.report.problems += [f"{text}: {problem}" for problem in self._recover()]
        return f"{text}; {time.monotonic() - began:.1f} s"

    def _strike(self, fault: Fault) -> str:
        node = self._place(fault)
        self._struck[fault] = node
        self._strikes.append((time.time_ns(), fault.failure.name))
        self.report.faults[fault.failure.name] += 1
        fault.failure.strike(self._lab, node)
        return f"{fault.failure.name} of {node} for {fault.seconds:.2f} s"

    def _heal(self, fault: Fault) -> None:
        fault.failure.heal(self._lab, self._struck.pop(fault))

    @contextmanager
    def _healed_at_last(self) -> Iterator[None]:
        try:
            yield
        finally:
            for fault in list(self._struck):
                self._heal(fault)

    def _place(self, fault: Fault) -> str:
        free = [node for node in self._watch.nodes if node not in self._struck.values()]
        had = Counter(node for nodes in self._watch.owners(ALONE_MS).values() for node in nodes)
        busiest, *others = sorted(free, key=lambda node: (-had[node], node))
        return busiest if fault.at_busiest or not others else others[fault.other % len(others)]

    def _recover(self) -> list[str]:
        """Wait until all is well; what was wrong until then. A fault is over when what it ended runs again."""
        try:
            for node in self._lab.nodes.values():
                until(partial(_runs, node), f"agent and keeper of {node.name} run", START_TIMEOUT_S)
            until(
                self._watch.recovered(ALONE_MS),
                "exactly one owner of each address, traffic passes",
                RECOVERY_S,
            )
        except NotInTime as error:
            return [f"{error}; owners: {self._watch.owners(ALONE_MS)}", *self._watch.wrong()]
        return self._watch.wrong()

    def _caused(self) -> Counter[str]:
        moments = [at for at, _ in self._strikes]
        return Counter(self._strikes[bisect(moments, at) - 1][1] for at, _ in self._watch.failovers())


def _runs(node: Node) -> bool:
    return node.agent.answers() and bool(node.agent.keeper_pids())


def _wait_until(moment: float) -> None:
    until(lambda: time.monotonic() >= moment, "it is time", 2 * FROZEN_S)


@contextmanager
def watched(timers: str = "default") -> Iterator[tuple[Lab, Watch]]:
    """Yield a lab with settled masters, and everything on watch."""
    options = next(each for each in TIMERS if each.name == timers).options
    with Lab(topology.separate(workers=1, gateways=GATEWAYS), options) as lab:
        try:
            prepare(lab, GATEWAY, ADDRESSES)
            worker = lab.nodes["w1"]
            pods = [worker.pod(f"backend-{number}", {"app": "backend"}) for number in range(PODS)]
            with Watch(lab, ADDRESSES, pods) as watch:
                until(lambda: watch.alone(ALONE_MS), "exactly one owner of each address", 20)
                yield lab, watch
        finally:
            lab.save_logs(LOGS)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests.bench.schedule", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--failovers", type=int, default=200, help="default 200")
    parser.add_argument("--seed", type=int, help="default: by the clock")
    parser.add_argument("--timers", choices=[timers.name for timers in TIMERS], default="default")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    seed = time.time_ns() % 1_000_000 if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    with watched(options.timers) as (lab, watch):
        schedule = Schedule(lab, watch, random.Random(seed), lambda text: print(text, flush=True))
        report = schedule.run(options.failovers)
    print(report)
    for problem in report.problems:
        print(f"wrong: {problem}")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
