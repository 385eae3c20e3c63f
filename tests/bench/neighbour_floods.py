"""``python -m tests.bench.neighbour_floods``: what a flood of solicitations for a virtual IPv6 address costs.

A lab with real lease daemons. A machine on the LAN floods as fast as it can; the router resolves the address anew for
each ping. Needs root.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from ..lab import documents, topology
from ..lab.flooder import flooding, question
from ..lab.lab import Lab
from ..lab.node import Node
from . import report

SECTION = "neighbour floods"
GATEWAY = "partner"
ADDRESS = topology.beside("172.16.0.50")
FLOODER, NEIGHBOUR = "02:00:00:00:00:99", topology.beside("172.16.0.99")
KINDS = ("no flood", "one MAC", "another MAC in each frame")
FLOOD_S = 5.0
PINGS = 30


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="tests.bench.neighbour_floods", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--document", type=Path, metavar="FILE", help="writes the table into it")
    options = parser.parse_args()
    lines = [
        "| flood | frames/s | sent by the master/s | lease daemon, of one processor "
        "| ping that resolves: median, worst |",
        "|---|---|---|---|---|",
    ]
    objects = documents.virtual_ip([ADDRESS], GATEWAY, destinations=["2001:db8:113::/64"])
    with Lab(topology.dual_stack()) as lab:
        lab.publish_nodes()
        lab.publish("objects", objects)
        lab.start_agents()
        for kind in KINDS:
            lines.append(row(lab, lab.nodes[lab.wait_settled(GATEWAY, 40)], kind))
            print(lines[-1], flush=True)
    if options.document:
        command = "`.venv/bin/python -m tests.bench.neighbour_floods`"
        report.write_section(
            options.document, SECTION, "\n".join((command, "", report.machine(), "", *lines))
        )


def row(lab: Lab, master: Node, kind: str) -> str:
    """Return a line of the table."""
    [pid] = master.agent.keeper_pids()
    daemon = psutil.Process(pid)
    with flood(lab, master, kind):
        before, spent, began = counts(master), busy(daemon), time.monotonic()
        pings = [ping(lab) for _ in range(PINGS)]
        while time.monotonic() < began + FLOOD_S:
            pings.append(ping(lab))
        after, took = counts(master), time.monotonic() - began
        share = (busy(daemon) - spent) / took
    received, sent = ((later - earlier) / took for earlier, later in zip(before, after, strict=True))
    return (
        f"| {kind} | {received:,.0f} | {sent:,.0f} | {share:.1%} "
        f"| {statistics.median(pings):.1f} ms, {max(pings):.1f} ms |"
    )


@contextmanager
def flood(lab: Lab, master: Node, kind: str) -> Iterator[None]:
    """Flood the master's port of the switch: no other machine takes processor time for the flood."""
    if kind == KINDS[0]:
        yield
        return
    port, frame = f"{master.name}-eth1", question(ADDRESS, FLOODER, NEIGHBOUR)
    with (
        tempfile.NamedTemporaryFile() as log,
        flooding(lab.machines["lan"], port, frame, Path(log.name), kind == KINDS[2], real_time=True),
    ):
        yield


def ping(lab: Lab) -> float:
    """Return how long the router waits for an answer of an address that it must resolve, in milliseconds."""
    router = lab.machines["router"]
    router.ip("neighbour flush dev eth1")
    printed = router.run("ping", "-n", "-c", "1", "-W", "5", ADDRESS)
    found = re.search(r"time=([0-9.]+) ms", printed)
    assert found, printed
    return float(found[1])


def counts(master: Node) -> tuple[int, int]:
    """Return how many packets the master's egress interface has received and sent."""
    [link] = json.loads(master.machine.run("ip", "-s", "-j", "link", "show", "dev", "eth1"))
    return link["stats64"]["rx"]["packets"], link["stats64"]["tx"]["packets"]


def busy(process: psutil.Process) -> float:
    """Return the processor time of a process, in seconds."""
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
