"""Silence of a flow through a virtual address at each kind of failure, and owners on the wire, beside keepalived.

``.venv/bin/python -m tests.bench.failover [--runs N] [--timers NAME]… [--only NAME]… [--json FILE]
[--document FILE --plot FILE]``; needs root. keepalived sends adverts as often as the agents send heartbeats, in the
same namespaces and with the same witnesses. ``--json`` keeps every run as it comes: the same command again goes on
where it was interrupted, and parts (``--only``, ``--timers``) add to one table. With ``--document`` the table is
written into it.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ..lab import topology
from ..lab.lab import Lab
from ..lab.namespace import REPOSITORY
from ..lab.observing import Observers
from ..lab.topology import VIRTUAL
from ..lab.waiting import NotInTime
from . import keepalived, phase, report, rival
from .failures import Failure
from .results import Result, Results, compared
from .rival import RIVAL_FAILURES, RivalRun
from .standbys import Standbys
from .virtual import VIRTUAL_FAILURES, VirtualRun, egress_nodes, prepare, problems, watch

GATEWAY = "partner"
SECTION = "virtual failover"
LOGS = REPOSITORY / "build" / "failover"
GATEWAYS = 4
"""Egress nodes in the lab: one that was struck recovers while others are."""
STILL_S = 0.6
"""Seconds that are watched where nothing may move: twice the longest lease."""
LONG = ("node resumed",)
"""Failures that last ten seconds, and keepalived's in which two owners are watched: run a tenth as often."""
FEWER = 10


@dataclass(frozen=True)
class Timers:
    name: str
    heartbeat: float
    """Seconds between heartbeats; keepalived's advert interval is the same."""
    lease: dict[str, str]
    bound: float
    """Milliseconds that the flow may be silent."""
    only: tuple[str, ...] = ()
    """Failures for which these timers are tried; none: all."""

    @property
    def options(self) -> dict[str, Any]:
        """For every agent's configuration."""
        return {"lease": self.lease}

    @property
    def contender(self) -> str:
        return f"{self.name} timers: {self.lease['heartbeat']}, {self.lease['duration']}"

    @property
    def rival(self) -> str:
        return f"keepalived, {self.heartbeat * 1000:.0f} ms adverts"


def _equal(heartbeat: float) -> Timers:
    """Return a lease that lasts as long as keepalived's backup waits, to the millisecond below."""
    duration = int(keepalived.master_down(heartbeat) * 1000)
    lease = {"heartbeat": f"{heartbeat * 1000:.0f}ms", "duration": f"{duration}ms"}
    return Timers("equal", heartbeat, lease, 400.0, ("node cut off", "node isolated"))


TIMERS = (
    Timers("default", 0.05, {"heartbeat": "50ms", "duration": "250ms"}, 400.0),
    Timers("tuned", 0.02, {"heartbeat": "20ms", "duration": "100ms"}, 150.0),
)
EQUAL = _equal(0.05)
ALL_TIMERS = (EQUAL, *TIMERS)
"""All timers in the order of the runs: keepalived runs in the same lab as the timers that are to be as fast."""
CONTENDERS = tuple(dict.fromkeys(name for timers in ALL_TIMERS for name in (timers.contender, timers.rival)))
Part = tuple[Timers, bool, str]
"""Timers, whether keepalived's part, failure."""


@dataclass
class Bench:
    """Fills ``results`` until each part has so many runs. ``clean`` while nothing was wrong."""

    results: Results
    count: int
    parts: Sequence[Part]
    changed: Callable[[], None]
    """Function to call after each part."""
    clean: bool = True

    @cached_property
    def machine(self) -> str:
        return report.machine()

    def run(self) -> None:
        for timers in ALL_TIMERS:
            parts = [part for part in self.parts if part[0] == timers and self._missing(part)]
            if not parts:
                continue
            with Lab(topology.separate(workers=1, gateways=GATEWAYS), timers.options) as lab:
                # keepalived first, before any agent runs: both use the same machines.
                self._rivals(lab, [part for part in parts if part[1]])
                try:
                    self._ours(lab, [part for part in parts if not part[1]])
                finally:
                    lab.save_logs(LOGS)

    def _rivals(self, lab: Lab, parts: Sequence[Part]) -> None:
        if parts:
            keepalived.serve(lab)
        for part in parts:
            failure = next(failure for failure in RIVAL_FAILURES if failure.name == part[2])
            first = self._done(part[0].rival, failure.name)
            runs = rival.measure(lab, part[0].heartbeat, failure, self._missing(part), first)
            self._collect(part, runs, lambda run: [])

    def _ours(self, lab: Lab, parts: Sequence[Part]) -> None:
        if not parts:
            return
        prepare(lab, GATEWAY)
        pod = lab.nodes["w1"].pod("backend-1", {"app": "backend"})
        standbys = Standbys(lab, GATEWAY)
        with Observers(lab, egress_nodes(lab), [VIRTUAL]) as observers:
            for part in parts:
                timers, _, name = part
                failure = next(failure for failure in VIRTUAL_FAILURES if failure.name == name)

                def runs(failure: Failure = failure, timers: Timers = timers) -> Iterator[VirtualRun]:
                    observed = 0.0 if failure.moves else STILL_S
                    for number in itertools.count(self._done(timers.contender, failure.name)):
                        master = standbys.wait()
                        standbys.struck(failure, master)
                        moment = partial(
                            phase.renewals(lab, master).wait, phase.part(number) * timers.heartbeat
                        )
                        yield watch(lab, GATEWAY, pod, failure, master, observers, observed, moment)

                def judged(run: Any, failure: Failure = failure, timers: Timers = timers) -> list[str]:
                    return problems(failure, run, timers.bound)

                self._collect(part, runs(), judged)

    def _collect(
        self, part: Part, runs: Iterator[VirtualRun | RivalRun], judged: Callable[[Any], list[str]]
    ) -> None:
        contender = part[0].rival if part[1] else part[0].contender
        while self._missing(part):
            began = time.monotonic()
            try:
                run = next(runs)
            except NotInTime as error:
                found = [str(error)]
                result = Result(part[2], contender, time.monotonic() - began, problems=(str(error),))
            else:
                found = judged(run)
                result = Result(
                    *(part[2], contender, time.monotonic() - began, run.silence, run.lost, run.overlap),
                    problems=tuple(found),
                    detail=asdict(run),
                )
            self.results.add(result, self.machine)
            self.clean = self.clean and not found
            for text in found:
                print(f"{part[2]:20} {contender:34} {text}", flush=True)
            if result.silence is None:
                # An iterator that has raised has ended.
                break
        self._log(part[2], contender)
        self.changed()

    def _missing(self, part: Part) -> int:
        timers, rivals, failure = part
        long = failure in LONG or (
            rivals and next(f for f in RIVAL_FAILURES if f.name == failure).seconds > 1
        )
        wanted = -(-self.count // FEWER) if long else self.count
        return max(0, wanted - self._done(timers.rival if rivals else timers.contender, failure))

    def _done(self, contender: str, failure: str) -> int:
        return len(self.results.of(failure, contender))

    def _log(self, failure: str, contender: str) -> None:
        row, left = self.results.row(failure, contender), 0.0
        for part in self.parts:
            name = part[0].rival if part[1] else part[0].contender
            left += self._missing(part) * self.results.pace(part[2], name)
        if row is not None:
            found = row.summary
            print(
                f"{failure:20} {contender:34} {found.runs:>4} {found.median:>8.1f} {found.worst:>8.1f} {row.lost:>6} "
                f"{row.overlap:>8.1f}   {self.results.pace(failure, contender):.1f} s a run, {left / 60:.0f} min left",
                flush=True,
            )


def parts(names: Sequence[str], only: Sequence[str]) -> list[Part]:
    """Return the parts to run, keepalived's part for each timer setting first."""
    found: list[Part] = []
    rivals: set[tuple[str, str]] = set()
    for timers in ALL_TIMERS:
        if names and timers.name not in names:
            continue
        failures = [f.name for f in VIRTUAL_FAILURES if (not only or f.name in only)]
        failures = [name for name in failures if not timers.only or name in timers.only]
        for name in failures:
            if name in [failure.name for failure in RIVAL_FAILURES] and (timers.rival, name) not in rivals:
                rivals.add((timers.rival, name))
                found.append((timers, True, name))
        found += [(timers, False, name) for name in failures]
    return found


def verdict(results: Results) -> list[str]:
    """Ours beside keepalived at equal detection time, one line for each failure that both have."""
    lines = []
    for failure in EQUAL.only:
        ours, theirs = results.row(failure, EQUAL.contender), results.row(failure, EQUAL.rival)
        if ours is not None and theirs is not None:
            lines.append(f"{failure}: {compared(ours.summary, theirs.summary)[0]}")
    return lines


def text(results: Results, command: str, picture: str) -> str:
    """Return the section of the document."""
    waits = keepalived.master_down(EQUAL.heartbeat) * 1000
    rows = results.rows([failure.name for failure in VIRTUAL_FAILURES], CONTENDERS)
    lines = [
        f"`{command}`",
        "",
        *results.stored.machines,
        "Silence of one open UDP flow through the virtual address, a datagram each millisecond, in milliseconds; "
        "lost: its datagrams without an answer, most in one run. Each failure strikes between two heartbeats or "
        "adverts of the master, at moments that are spread evenly over the interval.",
        "Two owners: the longest time in which the capture on the LAN shows frames of two nodes for the address. "
        "Ours are tried on every node by raw frames each half millisecond, which only a fence can stop; keepalived's "
        f"nodes speak only while they have the address, and are watched for {rival.TOGETHER_S:g} seconds.",
        f"Timers: heartbeat, lease. *Equal* is the lease that lasts as long as keepalived's backup waits: 3 adverts "
        f"and the skew, (256 − priority) / 256 of one; with {EQUAL.heartbeat * 1000:.0f} ms and priority "
        f"{max(keepalived.PRIORITIES.values())} {waits:.1f} ms.",
        "In *voters restarted* the lease daemons of all other egress nodes are killed in the middle of the election "
        "and start again, on the processors of one machine.",
        f"What lasts long ({', '.join(LONG)}; keepalived with two owners) was run a tenth as often.",
        "",
        report.table(rows),
    ]
    if found := verdict(results):
        lines += ["At equal detection time:", "", *(f"- {line}" for line in found), ""]
    if wrong := results.problems():
        lines += ["What was not as it should be:", "", *(f"- {line}" for line in wrong), ""]
    return "\n".join([*lines, f"![Silence at each failure]({picture})"] if picture else lines)


def _write(results: Results, options: argparse.Namespace) -> None:
    rows = results.rows([failure.name for failure in VIRTUAL_FAILURES], CONTENDERS)
    if options.plot and rows:
        report.plot(options.plot, "Silence of a flow through a virtual address", rows)
    if options.document and rows:
        command = f".venv/bin/python -m tests.bench.failover --runs {options.runs}"
        written = text(results, command, options.plot.name if options.plot else "")
        report.write_section(options.document, SECTION, written)


def main() -> int:
    names = [failure.name for failure in VIRTUAL_FAILURES]
    timers = [each.name for each in ALL_TIMERS]
    parser = argparse.ArgumentParser(
        prog="tests.bench.failover", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--runs", type=int, default=50, help="of each failure; default 50")
    parser.add_argument("--timers", action="append", choices=timers, metavar="NAME", help=", ".join(timers))
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="keeps every run; goes on with what is in it"
    )
    parser.add_argument("--document", type=Path, metavar="FILE", help="writes the table into it")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a PNG; it should be beside the document")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    results = Results(options.json)
    chosen = parts(options.timers or (), options.only or ())
    bench = Bench(results, options.runs, chosen, lambda: _write(results, options))
    print(f"{'failure':20} {'(milliseconds)':34} runs   median    worst   lost  overlap", flush=True)
    bench.run()
    _write(results, options)
    for line in verdict(results):
        print(line.replace("**", ""))
    return 0 if bench.clean else 1


if __name__ == "__main__":
    sys.exit(main())
