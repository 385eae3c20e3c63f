"""``python -m tests.bench.source_check``: what the checks of source addresses cost for each packet.

A pod sends small datagrams of one established flow to the outside service, as fast as one process can. Rounds with and
without the checks take turns in one run, so what else the machine does hits both alike. It needs root.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

from cni import datapath
from tests.netns import datapath_lab
from tests.netns.datapath_lab import SERVICE, TAG, Lab, plan

from ..lab.witness import run_in_real_time
from . import report

SECTION = "source check"
PORT = 9999
HOOKS = ("sources", "questions", "pod_sources")
"""The base chains of :mod:`cni.forgery`."""
SAMPLES, PACKETS = 30, 500
"""In each round, and in each sample."""
LARGE = tuple(str(IPv4Address("10.64.0.1") + 2 * number) for number in range(5000))
"""Addresses of a large cluster, no two adjacent: as many ranges as there can be."""


@dataclass(frozen=True)
class Case:
    name: str
    pod: str
    tagged: bool
    nodes: Sequence[str] = ()
    """More addresses that no pod may send from."""


CASES = (
    Case("selected pod, by the tunnel", "routed", True),
    Case("selected pod on a bridge, by the tunnel", "bridged", True),
    Case("pod that is not selected", "unselected", False),
    Case("pod that is not selected, 5,000 more nodes", "unselected", False, LARGE),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench.source_check", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="of each kind (default: %(default)s)")
    parser.add_argument("--document", type=Path, metavar="FILE", help="writes the table into it")
    options = parser.parse_args()
    run_in_real_time()
    lines = ["| packets of a | without, ns | with, ns | difference, ns | ratio |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as directory, datapath_lab.lab(Path(directory) / "service.log") as lab:
        for case in CASES:
            lab.reset()
            without, checked = measure(lab, case, options.rounds)
            cells = f"{without:.0f} | {checked:.0f} | {checked - without:.0f} | {checked / without:.3f}"
            lines.append(f"| {case.name} | {cells} |")
            print(lines[-1], flush=True)
    command = f"`.venv/bin/python -m tests.bench.source_check --rounds {options.rounds}`"
    if options.document:
        report.write_section(options.document, SECTION, "\n".join([command, "", *lines]))


def measure(lab: Lab, case: Case, rounds: int) -> tuple[float, float]:
    """Return the median price of a packet without the checks and with them, nanoseconds."""
    pod = lab.pods[case.pod]
    pod.tag(TAG if case.tagged else 0)
    found: dict[bool, list[float]] = {False: [], True: []}
    with (
        lab.outside.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        pod.machine.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sink.bind((SERVICE, PORT))
        sink.settimeout(2)
        sender.settimeout(2)
        sender.connect((SERVICE, PORT))
        for number in range(2 * rounds):
            checked = bool((number + number // 2) % 2)
            _set(lab, case, checked)
            _establish(sender, sink)
            found[checked].append(_round(sender))
    return statistics.median(found[False]), statistics.median(found[True])


def _set(lab: Lab, case: Case, checked: bool) -> None:
    for name in ("w1", "g1"):
        wanted = plan(name)
        wanted = replace(wanted, reserved_sources=(*wanted.reserved_sources, *case.nodes))
        text = datapath.node_nft(wanted)
        if not checked:
            text += "".join(f"delete chain inet egress_gateway {hook}\n" for hook in HOOKS)
        lab.nodes[name].nft(text)


def _establish(sender: socket.socket, sink: socket.socket) -> None:
    """Make the flow an established one: it is answered once."""
    sink.setblocking(False)
    try:
        while True:
            sink.recv(1)
    except BlockingIOError:
        sink.settimeout(2)
    sender.send(b"x")
    _, address = sink.recvfrom(1)
    sink.sendto(b"y", address)
    sender.recv(1)


def _round(sender: socket.socket) -> float:
    """Return the nanoseconds for each packet: the kernel forwards it before the call that sends it returns.

    The fastest of several samples: whatever else the machine does makes one slower, and none faster.
    """
    send = sender.send
    samples = []
    for _ in range(SAMPLES):
        began = time.perf_counter_ns()
        for _ in range(PACKETS):
            send(b"x")
        samples.append((time.perf_counter_ns() - began) / PACKETS)
    return min(samples)


if __name__ == "__main__":
    main()
