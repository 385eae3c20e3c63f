"""How many connections go on through a failover, and how long many addresses need.

``.venv/bin/python -m tests.bench.virtual_loads [--runs N] [--connections N] [--addresses N] [--json FILE]
[--document FILE]``; needs root. ``--json`` keeps the parts that were measured: the same command goes on with what is
missing. With ``--document`` the tables are written into it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..lab import topology
from ..lab.asking import Asking, recovered
from ..lab.connections import Connections, Fates, fates
from ..lab.lab import SELECTED, Lab
from ..lab.pod import Pod
from ..lab.waiting import until
from . import report
from .virtual import egress_nodes, prepare

GATEWAY = "partner"
OPEN_BEFORE_S = 1.0
"""Seconds that every connection has been open when the fault comes."""
LASTING_S, SETTLE_S = 2.0, 3.0
"""Seconds that are watched afterwards, and seconds before in which nothing may move."""
SECTION = "virtual loads"
MAX_RATIO = 2.0
"""Largest ratio of the time for the last of many addresses to the time for one."""
Move = Callable[[Lab, str], None]


@dataclass(frozen=True)
class Recovery:
    """One node of several was lost."""

    addresses: int
    """Number of all addresses."""
    lost: int
    """Number of addresses that the lost node held."""
    first: float
    """Milliseconds until another node answered for the first of these addresses."""
    last: float
    keeper: float
    """Milliseconds of processor time that the busiest lease daemon of the others used beyond a run without a failure.
    """


def connections_through(lab: Lab, pod: Pod, move: Move, count: int, interval: float = 200.0) -> Fates:
    """Return the fates of a pod's open connections when the address moves; ``interval`` between lines, in ms.

    ``move`` is given the master at that time. The fault is not healed here.
    """
    master = lab.wait_settled(GATEWAY, 40)
    log = lab.directory / "connections.log"
    with Connections(pod.machine, log, SELECTED, count, interval) as load:
        _wait(OPEN_BEFORE_S)
        struck = time.time_ns()
        move(lab, master)
        until(lambda: lab.master(GATEWAY, asked="w1") not in ("", master), "another is master", 20)
        _wait(LASTING_S)
        return fates(load.stop(), struck)


def cut(lab: Lab, master: str) -> None:
    lab.cut(master)


def handover(lab: Lab, master: str) -> None:
    """By the operator, to the next egress node."""
    to = next(name for name in egress_nodes(lab) if name != master)
    lab.nodes[master].egressctl("handover", GATEWAY, "--to", to)


def addresses_through(lab: Lab, addresses: Sequence[str]) -> Recovery:
    """Cuts off one node that holds addresses; the others take over. It is put back afterwards."""
    lab.wait_settled(GATEWAY, 40)
    router = lab.machines["router"]
    macs = {name: _mac(lab, name) for name in egress_nodes(lab)}
    lost = lab.master(GATEWAY, asked="w1")
    with Asking(router, lab.directory / "asking.log", lab.topology.egress_interface, addresses) as asking:
        begun = _worked(lab, lost)
        _wait(LASTING_S)
        before = _worked(lab, lost)
        struck = time.time_ns()
        lab.cut(lost)
        try:
            _wait(LASTING_S)
            after = _worked(lab, lost)
            answers = asking.stop()
        finally:
            lab.mend(lost)
    times = recovered(answers, struck, macs[lost])
    silent = [address for address, taken in times.items() if taken is None]
    if silent or not times:
        raise RuntimeError(f"of {len(times)} addresses of {lost} nobody took {', '.join(silent) or 'any'}")
    found = [taken for taken in times.values() if taken is not None]
    keeper = max(after[name] - before[name] - (before[name] - begun[name]) for name in before)
    return Recovery(len(addresses), len(found), min(found), max(found), keeper)


def all_answered(lab: Lab, addresses: Sequence[str]) -> bool:
    """Whether every address has a master by the word of the first worker."""
    egress_ips = lab.nodes["w1"].agent.status()["egressIPs"]
    return {egress["ip"] for egress in egress_ips if egress["master"]} >= set(addresses)


def _at_rest(lab: Lab) -> None:
    """Wait until no address has moved for a while: new ones are spread, and the rules of all are written."""

    def masters() -> list[tuple[str, int]]:
        return [(egress["master"], egress["epoch"]) for egress in lab.nodes["w1"].agent.status()["egressIPs"]]

    last, since = masters(), time.monotonic()

    def still() -> bool:
        nonlocal last, since
        if (now := masters()) != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > SETTLE_S

    until(still, f"no address moves for {SETTLE_S} s", 60)


def _worked(lab: Lab, lost: str) -> dict[str, float]:
    """Milliseconds of a processor that the lease daemon of each egress node but ``lost`` has had."""
    found = {}
    for name in egress_nodes(lab):
        if name != lost:
            (pid,) = lab.nodes[name].agent.keeper_pids()
            found[name] = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6
    return found


def _mac(lab: Lab, node: str) -> str:
    path = f"/sys/class/net/{lab.topology.egress_interface}/address"
    return lab.machines[node].run("cat", path).strip()


def _wait(seconds: float) -> None:
    began = time.monotonic()
    until(lambda: time.monotonic() - began > seconds, "time passes", 2 * seconds + 5)


def _connections(runs: int, count: int, sync: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with Lab(topology.separate(workers=1)) as lab:
        prepare(lab, GATEWAY, connection_sync=sync)
        pod = lab.nodes["w1"].pod("backend-1", {"app": "backend"})
        for name, move in (("cut off", cut), ("planned handover", handover)):
            rows = []
            for _ in range(runs):
                master = lab.wait_settled(GATEWAY, 40)
                try:
                    rows.append(asdict(connections_through(lab, pod, move, count)))
                finally:
                    lab.mend(master)
                print(f"{name}, connectionSync {sync}: {rows[-1]}", flush=True)
            found[name] = rows
    return found


def _addresses(runs: int, count: int) -> list[dict[str, Any]]:
    addresses = topology.virtual_addresses(count)
    rows = []
    with Lab(topology.separate(workers=1, gateways=4)) as lab:
        prepare(lab, GATEWAY, addresses)
        for _ in range(runs):
            until(partial(all_answered, lab, addresses), "every address has a master", 30)
            _at_rest(lab)
            rows.append(asdict(addresses_through(lab, addresses)))
            print(f"one of 4 nodes lost: {rows[-1]}", flush=True)
    return rows


def verdict(one: Sequence[dict[str, Any]], many: Sequence[dict[str, Any]]) -> tuple[str, bool]:
    """Return the comparison as text, and True if many addresses need at most :data:`MAX_RATIO` times as long as one."""
    base, last = (statistics.median(run["last"] for run in runs) for runs in (one, many))
    met = last <= MAX_RATIO * base
    message = (
        f"{last:.0f} ms beside {base:.0f} ms, {last / base:.2f} times (the goal is {MAX_RATIO:g} at most)"
    )
    return f"{message}: {'met' if met else '**not met**'}", met


def text(found: dict[str, Any], command: str) -> str:
    """Return the section of the document."""
    lines = [f"`{command}`", "", report.machine(), ""]
    if addresses := found.get("addresses"):
        lines += [
            "One of four egress nodes is cut off. Time until another one answers for its addresses, in milliseconds "
            "(a router asks for each address each 5 ms); keeper: what the busiest lease daemon worked more than it "
            "does without a failure, in the two seconds after.",
            "",
            "| addresses | on the lost node | runs | first, median | last, median | last, worst | keeper, median |",
            "|---|---|---|---|---|---|---|",
        ]
        for runs in addresses:
            first, last, keeper = ([run[key] for run in runs] for key in ("first", "last", "keeper"))
            lost = sorted({run["lost"] for run in runs})
            lines.append(
                f"| {runs[0]['addresses']} | {'–'.join(map(str, (lost[0], lost[-1])[: len(lost)]))} | {len(runs)} "
                f"| {statistics.median(first):.0f} | {statistics.median(last):.0f} | {max(last):.0f} "
                f"| {statistics.median(keeper):.0f} |"
            )
        lines += ["", f"The last of many beside one: {verdict(*addresses)[0]}.", ""]
    if connections := found.get("connections"):
        lines += [
            "TCP connections of one pod, open for a second, each a line every 200 ms, when the address moves. "
            "Paused: went on after a segment was sent again; pause: the longest of a run.",
            "",
            "| connections | | runs | went on, fewest | reset, most | hung, most | paused, most | pause, median (ms) |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, moves in connections.items():
            for move, runs in moves.items():
                most = {key: max(run[key] for run in runs) for key in ("reset", "hung", "delayed")}
                total = runs[0]["alive"] + runs[0]["reset"] + runs[0]["hung"]
                pause = statistics.median(run["longest_pause"] for run in runs)
                lines.append(
                    f"| {total}, {name} | {move} | {len(runs)} | {min(run['alive'] for run in runs)} "
                    f"| {most['reset']} | {most['hung']} | {most['delayed']} | {pause:.0f} |"
                )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests.bench.virtual_loads", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--runs", type=int, default=5, help="of each; default 5")
    parser.add_argument("--connections", type=int, default=1000, help="default 1000; 0: none of these runs")
    parser.add_argument(
        "--addresses", type=int, default=64, help="beside one; default 64; 0: none of these runs"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="keeps what was measured; goes on with the rest"
    )
    parser.add_argument("--document", type=Path, metavar="FILE", help="writes the tables into it")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    found: dict[str, Any] = {}
    if options.json and options.json.exists():
        found = json.loads(options.json.read_text())

    def keep() -> None:
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            draft = options.json.with_suffix(".draft")
            draft.write_text(json.dumps(found, indent=1) + "\n")
            os.replace(draft, options.json)
        if options.document and found:
            command = f".venv/bin/python -m tests.bench.virtual_loads --runs {options.runs}"
            report.write_section(options.document, SECTION, text(found, command))

    if options.addresses and "addresses" not in found:
        found["addresses"] = [_addresses(options.runs, count) for count in (1, options.addresses)]
        keep()
    for name, sync in (("connectionSync", True), ("without", False)):
        if options.connections and name not in found.get("connections", {}):
            runs = _connections(options.runs, options.connections, sync)
            found.setdefault("connections", {})[name] = runs
            keep()
    keep()
    if "addresses" not in found:
        return 0
    message, met = verdict(*found["addresses"])
    print(f"the last of many addresses beside one: {message}".replace("**", ""))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
