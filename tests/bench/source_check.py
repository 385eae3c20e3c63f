"""``python -m tests.bench.source_check``: what the checks of source addresses cost for each packet.

A pod sends small datagrams of one established flow to the outside service, as fast as one process can. Rounds with and
without the checks take turns in one run, so what else the machine does hits both alike; the ratio is the median of
those of neighbouring rounds. ``--beside`` names a checkout of another version: its rules take turns with these. It
needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

from cni.datapath import lease_port_guard, objects, source_guard, steering
from cni.datapath.nft_blocks import Marks, not_to
from cni.plan import Plan
from gateway_agent.gateway_rules.snat import gateway_nft
from tests.netns import datapath_lab
from tests.netns.datapath_lab import SERVICE, TAG, Lab, Pod, plan

from ..lab.witness import run_in_real_time
from . import report

SECTION = "source check"
PORT = 9999
WITHOUT, WITH, BESIDE = "without", "with", "other version"
SAMPLES, PACKETS = 15, 300
"""Samples in each round, and packets in each sample."""
NODES = ("w1", "g1")
"""Nodes that the packets pass."""


def spread(first: str) -> tuple[str, ...]:
    """Return the addresses of a large cluster, no two adjacent: as many ranges as there can be."""
    return tuple(str(IPv4Address(first) + 2 * number) for number in range(5000))


@dataclass(frozen=True)
class Case:
    name: str
    pod: str
    tagged: bool
    nodes: Sequence[str] = ()
    """Further addresses that no pod may send from."""


CASES = (
    Case("selected pod, by the tunnel", "routed", True),
    Case("selected pod on a bridge, by the tunnel", "bridged", True),
    Case("pod that is not selected", "unselected", False),
    Case("pod that is not selected, 5,000 more nodes", "unselected", False, spread("10.64.0.1")),
    # The pods' addresses, 10.244.0.0/24, lie between those of the nodes.
    Case("the same, pods and nodes in one network", "unselected", False, spread("10.243.236.0")),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="tests.bench.source_check", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=40, help="of each kind (default: %(default)s)")
    parser.add_argument(
        "--beside", type=Path, metavar="CHECKOUT", help="another version, whose rules take turns too"
    )
    parser.add_argument("--document", type=Path, metavar="FILE", help="writes the table into it")
    options = parser.parse_args()
    run_in_real_time()
    lines = [
        "| packets of a | "
        + ("other version, ns | " if options.beside else "")
        + "without, ns | with, ns | ratio |",
        "|---|---|---|---|" + ("---|" if options.beside else ""),
    ]
    with tempfile.TemporaryDirectory() as directory, datapath_lab.lab(Path(directory) / "service.log") as lab:
        for case in CASES:
            lab.reset()
            lines.append(row(case, measure(lab, case, options.rounds, options.beside)))
            print(lines[-1], flush=True)
    beside = f" --beside {options.beside}" if options.beside else ""
    command = f"`.venv/bin/python -m tests.bench.source_check --rounds {options.rounds}{beside}`"
    if options.document:
        report.write_section(options.document, SECTION, "\n".join([command, "", *lines]))


def row(case: Case, found: Mapping[str, Sequence[float]]) -> str:
    """Return the medians, with the median ratios of the others to the first one."""
    first, *others = found.values()
    cells = [f"{statistics.median(first):.0f}"]
    for prices in others:
        ratio = statistics.median(price / base for base, price in zip(first, prices, strict=True))
        cells.append(f"{statistics.median(prices):.0f} | {ratio:.3f}" if prices is others[-1] else
                     f"{statistics.median(prices):.0f} ({ratio:.3f})")  # fmt: skip
    return f"| {case.name} | {' | '.join(cells)} |"


def measure(lab: Lab, case: Case, rounds: int, beside: Path | None) -> dict[str, list[float]]:
    """Return what a packet costs in each round under the rules of each contender, nanoseconds."""
    pod = lab.pods[case.pod]
    pod.tag(TAG if case.tagged else 0)
    contenders = {BESIDE: {name: _other(beside, name) for name in NODES}} if beside else {}
    contenders |= {
        kind: {name: _rules(case, name, kind == WITH) for name in NODES} for kind in (WITHOUT, WITH)
    }
    found: dict[str, list[float]] = {kind: [] for kind in contenders}
    with _flow(lab, pod) as (sender, sink):
        for number in range(rounds):
            # Each is first and last equally often.
            for kind in sorted(contenders, reverse=bool(number % 2)):
                for name, rules in contenders[kind].items():
                    lab.nodes[name].nft(rules)
                _establish(sender, sink)
                found[kind].append(_round(sender))
    return found


@contextlib.contextmanager
def _flow(lab: Lab, pod: Pod) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield the pod's socket, connected, and the service's."""
    with (
        lab.outside.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        pod.machine.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sink.bind((SERVICE, PORT))
        sink.settimeout(2)
        sender.settimeout(2)
        sender.connect((SERVICE, PORT))
        yield sender, sink


def _rules(case: Case, node: str, checked: bool) -> str:
    wanted = plan(node)
    wanted = replace(wanted, reserved_sources=(*wanted.reserved_sources, *case.nodes))
    text = gateway_nft(wanted) + objects.node_nft(wanted)
    checks = () if checked else tuple(_checks(wanted))
    return "".join(f"{line}\n" for line in text.splitlines() if line.strip() not in checks)


def _checks(wanted: Plan) -> Iterator[str]:
    """Yield the rules that lead to the checks."""
    marks = Marks(wanted)
    yield source_guard.tagged_rule(not_to(lease_port_guard.ports(wanted)))
    yield from source_guard.arrival_rules(marks)
    yield from source_guard.forward_rules(wanted)
    yield from (steering.NEW_CONNECTION_RULE, steering.unverified_reply_rule(marks))


def _other(checkout: Path, node: str) -> str:
    """Return the rules of another version for the same node of the lab."""
    program = (
        "from cni.datapath import objects as datapath; from gateway_agent.gateway_rules.snat import gateway_nft;"
        f" from tests.netns.datapath_lab import plan; wanted = plan({node!r});"
        " print(gateway_nft(wanted) + datapath.node_nft(wanted))"
    )
    return subprocess.run(
        [sys.executable, "-c", program], cwd=checkout, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


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
