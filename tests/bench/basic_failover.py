"""Silence at each kind of failure in basic mode, beside keepalived in the same namespaces.

``.venv/bin/python -m tests.bench.basic_failover [--runs N] [--only NAME]… [--json FILE]``; needs root. A probe each
millisecond, each from a new port, goes from a pod to the outside service; silence is the longest row of lost
probes. For keepalived (adverts each 100 ms) it is that of a flow from outside to the address that it moves.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..lab import documents, topology
from ..lab.lab import Lab
from ..lab.namespace import REPOSITORY
from ..lab.silence import Summary, summary
from ..lab.waiting import NotInTime
from . import keepalived, rival
from .failures import FAILURES, Failure, Run, measure

GATEWAY = "partner"
MAX_RATIO = 1.5
"""Largest ratio of the worst silence to keepalived's median."""
ADVERT_INTERVAL_S = 0.1
"""Seconds between keepalived's adverts."""


def yardstick(lab: Lab, runs: int) -> list[float]:
    """Keepalived's silences, milliseconds. Before any agent runs: both use the same machines."""
    keepalived.serve(lab)
    cut = next(failure for failure in rival.RIVAL_FAILURES if failure.name == "node cut off")
    return [run.silence for run in rival.measure(lab, ADVERT_INTERVAL_S, cut, runs)]


def prepare(lab: Lab) -> None:
    """Start the agents with one gateway and one policy; returns when a master is settled."""
    lab.publish_nodes()
    lab.publish("objects", documents.basic_mode(lab.topology.egress_interface, GATEWAY))
    lab.start_agents()
    lab.wait_settled(GATEWAY, 40)


def verdict(failure: Failure, runs: Sequence[Run], bound: float) -> list[str]:
    """Return the errors in these runs of one failure; empty if all are good."""
    found = []
    worst = max(run.silence for run in runs)
    if wrong := sorted({address for run in runs for address in run.wrong}):
        found.append(f"packets left by {', '.join(wrong)}")
    if worst > bound:
        found.append(f"silent for {worst:.0f} ms, more than {bound:.0f}")
    if not failure.silent and not failure.moves and worst > 0:
        found.append(f"silent for {worst:.0f} ms, though nothing should move")
    return found


def _row(name: str, silence: Summary, note: str) -> str:
    return f"{name:24} {silence.runs:>4}  {silence.median:>8.0f} {silence.worst:>8.0f}   {note}"


def _bench(lab: Lab, failures: Sequence[Failure], count: int) -> tuple[dict[str, object], bool]:
    print(f"{'milliseconds of silence':24} runs    median    worst", flush=True)
    reference = summary(yardstick(lab, count))
    print(_row("keepalived, node cut off", reference, "100 ms adverts"), flush=True)
    prepare(lab)
    pod = lab.nodes["w1"].pod("backend-1", {"app": "backend"})
    report: dict[str, object] = {"keepalived": asdict(reference)}
    clean = True
    for failure in failures:
        try:
            runs = [measure(lab, GATEWAY, pod, failure) for _ in range(count)]
        except NotInTime as error:
            print(f"{failure.name:24} failed: {error}", flush=True)
            lab.save_logs(REPOSITORY / "build" / "failover")
            report[failure.name] = {"problems": [str(error)], "runs": []}
            clean = False
            continue
        problems = verdict(failure, runs, MAX_RATIO * reference.median)
        clean = clean and not problems
        print(_row(failure.name, summary([r.silence for r in runs]), "; ".join(problems) or "ok"), flush=True)
        report[failure.name] = {"problems": problems, "runs": [asdict(run) for run in runs]}
    return report, clean


def main() -> int:
    names = [failure.name for failure in FAILURES]
    parser = argparse.ArgumentParser(
        prog="tests.bench.basic_failover", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--runs", type=int, default=20, help="of each failure; default 20")
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--json", type=Path, metavar="FILE", help="every run, for a closer look")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    chosen = [failure for failure in FAILURES if not options.only or failure.name in options.only]
    with Lab(topology.separate(workers=1)) as lab:
        report, clean = _bench(lab, chosen, options.runs)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
