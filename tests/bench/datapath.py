"""``python -m tests.bench.datapath``: what the path through a gateway carries, beside one that is made by hand.

The same pod, worker and master take turns with our rules, with those of :mod:`tests.bench.handmade_path`, and, as a pod
that is not selected, with our rules and with none. So what else the machine does hits all alike: each ratio is the
median of those of neighbouring turns. It needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cni.kernel import ids
from cni.kernel.netlink import links

from ..lab.witness import run_in_real_time
from ..netns import datapath_lab
from ..netns.datapath_lab import TAG, Lab
from . import handmade_path, report, traffic

SECTION = "data path"
COMMAND = ".venv/bin/python -m tests.bench.datapath"
GOAL_RATIO = 0.97
FLOWS = (1, 1000)
RUN_S = 0.4
"""Seconds of one measurement of throughput."""
ROUND_TRIPS = 100
TCP_PORT = 19999
PORTS = 20000
"""The first UDP port of the service; each contender has one of its own for each number of flows."""


@dataclass(frozen=True)
class Contender:
    name: str
    group: int
    """Interface group of the pod."""
    rules: Callable[[Lab], None]


SELECTED, OTHER = ids.GROUP_BASE + TAG, ids.GROUP_UNSELECTED
OURS = Contender("ours", SELECTED, lambda lab: handmade_path.ours(lab, 0))
MANY = Contender("ours, 64 gateways more", SELECTED, lambda lab: handmade_path.ours(lab, 64))
HANDMADE = Contender("by hand", SELECTED, handmade_path.handmade)
UNSELECTED = Contender("not selected", OTHER, lambda lab: handmade_path.ours(lab, 0))
WITHOUT = Contender("without rules", OTHER, handmade_path.none)
CONTENDERS = (OURS, HANDMADE, UNSELECTED, WITHOUT)
Turn = dict[str, float]
"""Results of one contender in one turn, by measure: more is better."""


@contextlib.contextmanager
def laboratory() -> Iterator[Lab]:
    """Yield the data path's lab with both paths in it."""
    with tempfile.TemporaryDirectory() as directory, datapath_lab.lab(Path(directory) / "service.log") as lab:
        lab.reset()
        handmade_path.lay(lab)
        yield lab


class Bench:
    """Contenders with their open flows. Use it as a context."""

    def __init__(
        self, lab: Lab, contenders: Sequence[Contender], flows: Sequence[int], tcp: bool = True
    ) -> None:
        self._lab, self._contenders, self._numbers, self._tcp = lab, contenders, flows, tcp
        self._pod = lab.pods["routed"]
        self._datagrams: dict[tuple[str, int], traffic.Datagrams] = {}

    def __enter__(self) -> Bench:
        port = PORTS
        for contender in self._contenders:
            self._begin(contender)
            for flows in self._numbers:
                key = contender.name, flows
                ends = self._pod.machine, self._lab.outside, flows
                self._datagrams[key] = traffic.datagrams(*ends, port)
                port += 1
        return self

    def __exit__(self, *_: object) -> None:
        for datagrams in self._datagrams.values():
            datagrams.close()

    def turns(self, number: int) -> dict[str, list[Turn]]:
        """Return what each contender reached in each turn."""
        found: dict[str, list[Turn]] = {contender.name: [] for contender in self._contenders}
        for turn in range(number):
            # Each is early and late equally often.
            for contender in self._contenders[:: -1 if turn % 2 else 1]:
                self._begin(contender)
                found[contender.name].append(dict(self._measured(contender)))
        return found

    def _begin(self, contender: Contender) -> None:
        contender.rules(self._lab)
        self._pod.node.machine.inside(lambda: links.tag(self._pod.host, contender.group))

    def _measured(self, contender: Contender) -> Iterator[tuple[str, float]]:
        for flows in self._numbers:
            of = f"{flows:,} flow{'s' if flows > 1 else ''}"
            packets = self._datagrams[contender.name, flows]
            yield f"UDP out, packets/s, {of}", 1e9 / packets.out_ns()
            yield f"UDP back, packets/s, {of}", 1e9 / packets.back_ns()
            if not self._tcp:
                continue
            # In each turn anew: a segment that is sent again under the rules of another contender ends its connection.
            with traffic.streams(self._pod.machine, self._lab.outside, flows, TCP_PORT) as streams:
                if flows == self._numbers[0]:
                    yield "TCP round trips/s", 1e9 / streams.round_trip_ns(ROUND_TRIPS)
                yield f"TCP out, Gbit/s, {of}", streams.out(RUN_S) / 1e9
                yield f"TCP back, Gbit/s, {of}", streams.back(RUN_S) / 1e9


def ratios(ours: Sequence[Turn], theirs: Sequence[Turn]) -> Turn:
    """Return the median ratio of neighbouring turns, by measure."""
    return {
        measure: statistics.median(
            mine[measure] / other[measure] for mine, other in zip(ours, theirs, strict=True)
        )
        for measure in ours[0]
    }


def fastest(turns: Sequence[Turn]) -> Turn:
    """Return the best value of each measure."""
    return {measure: max(turn[measure] for turn in turns) for measure in turns[0]}


def table(found: Mapping[str, Sequence[Turn]]) -> str:
    """Return medians, with the ratio of ours to the path by hand and of a pod that is not selected to no rules."""
    names = list(found)
    lines = [
        f"| | {' | '.join(names)} | ours / by hand | not selected / without rules |",
        "|---" * (len(names) + 3) + "|",
    ]
    gateway = ratios(found[OURS.name], found[HANDMADE.name])
    others = ratios(found[UNSELECTED.name], found[WITHOUT.name])
    for measure in gateway:
        medians = (statistics.median(turn[measure] for turn in found[name]) for name in names)
        cells = " | ".join(f"{value:,.0f}" if value > 100 else f"{value:.2f}" for value in medians)
        lines.append(f"| {measure} | {cells} | {gateway[measure]:.3f} | {others[measure]:.3f} |")
    worst = min(gateway, key=gateway.__getitem__)
    met = "met" if gateway[worst] >= GOAL_RATIO else "**not met**"
    lines += [
        "",
        f"Goal: at least {GOAL_RATIO} of the path by hand. Worst: {gateway[worst]:.3f} ({worst}): {met}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(
        prog="tests.bench.datapath", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--turns", type=int, default=15, help="of each contender (default: %(default)s)")
    parser.add_argument("--udp", action="store_true", help="small datagrams only")
    parser.add_argument("--flows", help="in place of 1,1000")
    parser.add_argument("--document", type=Path, metavar="FILE", help="writes the table into it")
    options = parser.parse_args()
    run_in_real_time()
    flows = tuple(map(int, options.flows.split(","))) if options.flows else FLOWS
    with laboratory() as lab, Bench(lab, CONTENDERS, flows, not options.udp) as bench:
        found = table(bench.turns(options.turns))
    print(found)
    if options.document:
        command = f"`{COMMAND} --turns {options.turns}`"
        report.write_section(options.document, SECTION, "\n".join((command, "", report.machine(), "", found)))


if __name__ == "__main__":
    main()
