"""What a large cluster costs the agent of one node: 250 of its 2,000 pods, 300 policies.

``.venv/bin/python -m tests.bench.cluster_scale [--pods N] [--others N] [--policies N]``; needs root. The pods are
interfaces with a route each, found as pods that ran before the plugin was installed are. A policy that selects every
fifth of them is made while all of that stands; what is measured ends with the last interface that carries its tag.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from ..lab import documents, topology
from ..lab.lab import Lab
from ..lab.node import Node
from ..lab.topology import VIRTUAL
from ..lab.waiting import until
from . import report

GATEWAY = "partner"
SETTLE_S = 20.0
"""Seconds over which the processor time at rest is taken."""
STARTS = 20
PARTS, CHOSEN = 5, "4"
APPS = 50
"""Number of policies that select pods of this node."""
SECTION = "cluster scale"
COMMAND = ".venv/bin/python -m tests.bench.cluster_scale"


@dataclass(frozen=True)
class Found:
    pods: int
    others: int
    """Pods of other nodes."""
    policies: int
    adopted: float
    """Seconds from the start of the agent to the last pod that it had found."""
    memory: float
    """Memory of the agent's process, MiB."""
    rest: float
    """Processor time of the agent at rest, percent of one processor."""
    tagged: float
    """Seconds until the pods were tagged."""
    requests: dict[str, int]
    """Requests of the start of :data:`STARTS` pods."""
    start: float
    """Median of their ADDs, seconds."""


def measure(pods: int, others: int, policies: int) -> Found:
    with Lab(topology.separate(workers=1, gateways=2), store="kubernetes") as lab:
        lab.publish_nodes()
        lab.publish("objects", documents.virtual_ip([VIRTUAL], GATEWAY))
        node = lab.nodes["w1"]
        cluster = lab.cluster
        assert cluster is not None
        more = [documents.policy(f"policy-{n}", GATEWAY, {"app": f"app-{n}"}) for n in range(policies - 2)]
        lab.publish("more", more)
        _connect(node, pods)
        for number in range(pods):
            labels = {"app": f"app-{number % APPS}", "part": _part(number), "pod": str(number)}
            cluster.run("prod", f"pod-{number}", node.name, labels)
            cluster.runs("prod", f"pod-{number}", _address(number))
        for number in range(others):
            cluster.run(
                "prod",
                f"other-{number}",
                "another",
                {"app": f"app-{number % APPS}", "pod": f"other-{number}"},
            )
        began = time.monotonic()
        lab.start_agents()
        until(lambda: _attached(node) == pods, "all pods are found", 120)
        adopted = time.monotonic() - began
        lab.wait_settled(GATEWAY, 60)
        tagged = _tag_some(lab, node, pods)
        process = psutil.Process(node.agent.pid)
        rest = _rest(process)
        before = cluster.requests()
        starts = [_start(node, number) for number in range(STARTS)]
        after = cluster.requests()
        requests = {what: count - before.get(what, 0) for what, count in after.items() if "watch" not in what}
        asked = {what: count for what, count in _grouped(requests).items() if count}
        memory = process.memory_info().rss / (1 << 20)
        return Found(pods, others, policies, adopted, memory, rest, tagged, asked, statistics.median(starts))


def _connect(node: Node, pods: int) -> None:
    for number in range(pods):
        node.machine.ip(
            f"link add pod{number} type veth peer name peer{number}",
            f"link set pod{number} up",
            f"route add {_address(number)}/32 dev pod{number}",
        )


def _part(number: int) -> str:
    """Of each application every fifth pod has the same."""
    return str(number // APPS % PARTS)


def _address(number: int) -> str:
    return f"10.245.{100 + number // 250}.{number % 250 + 1}"


def _attached(node: Node) -> int:
    try:
        return len(list((node.agent.run_dir / "attachments").glob("*.json")))
    except OSError:
        return 0


def _tag_some(lab: Lab, node: Node, pods: int) -> float:
    """Seconds from the creation of a policy to the last tag."""
    assert lab.cluster is not None
    chosen = {f"pod{number}" for number in range(pods) if _part(number) == CHOSEN}
    until(lambda: sum(map(bool, _tags(node).values())) == pods, "every pod has its tag", 120)
    before = _tags(node)
    began = time.monotonic()
    lab.cluster.apply(documents.policy("part", GATEWAY, {"part": CHOSEN}))
    until(
        lambda: chosen <= {name for name, tag in _tags(node).items() if tag != before[name]},
        "all are tagged",
        60,
    )
    return time.monotonic() - began


def _tags(node: Node) -> dict[str, int]:
    """Return the interface groups of the pods."""
    links = json.loads(node.machine.run("ip", "-j", "link", "show", "type", "veth"))
    return {link["ifname"]: 0 if link["group"] == "default" else int(link["group"]) for link in links}


def _rest(process: psutil.Process) -> float:
    before, began = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(SETTLE_S)
    return 100 * (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)


def _start(node: Node, number: int) -> float:
    pod = node.new_pod(f"started-{number}", {"app": "app-1"})
    began = time.monotonic()
    pod.start()
    return time.monotonic() - began


def _grouped(requests: dict[str, int]) -> dict[str, int]:
    """By what they ask for, not by its name."""
    grouped: dict[str, int] = {}
    for what, count in requests.items():
        key = "GET a pod" if "/pods/" in what else what
        grouped[key] = grouped.get(key, 0) + count
    return grouped


def text(found: Found) -> str:
    asked = ", ".join(f"{count} × {what}" for what, count in sorted(found.requests.items())) or "none"
    return "\n".join(
        (
            f"`{COMMAND} --pods {found.pods} --others {found.others} --policies {found.policies}`",
            "",
            report.machine(),
            "",
            f"One node that runs {found.pods} pods, {found.others} pods on others, {found.policies} policies.",
            "",
            "| | |",
            "|---|---|",
            f"| from the agent's start to the last pod found | {found.adopted:.1f} s |",
            f"| from a policy's creation to the last of {found.pods // PARTS} tags | {found.tagged:.2f} s |",
            f"| memory of the agent | {found.memory:.0f} MiB |",
            f"| processor at rest | {found.rest:.1f} % of one |",
            f"| ADD of a pod, median of {STARTS} | {1000 * found.start:.0f} ms |",
            f"| requests for {STARTS} pod starts | {asked} |",
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests.bench.cluster_scale", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--pods", type=int, default=250)
    parser.add_argument("--others", type=int, default=1750)
    parser.add_argument("--policies", type=int, default=300)
    parser.add_argument("--document", type=Path, metavar="FILE", help="writes the table into it")
    options = parser.parse_args()
    message = text(measure(options.pods, options.others, options.policies))
    print(message)
    if options.document:
        report.write_section(options.document, SECTION, message)
    return 0


if __name__ == "__main__":
    sys.exit(main())
