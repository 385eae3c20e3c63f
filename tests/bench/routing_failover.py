"""Silence at a failover, of an address with ``routing`` beside one without: both are of one master, which is cut off.

``.venv/bin/python -m tests.bench.routing_failover [--runs N]``; needs root. Both flows are struck by the same failure,
so neither the machine's load nor the phase of a heartbeat makes a difference between them. After half of the runs the
gateways change places.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from ..lab import documents, topology
from ..lab.flow import Flow
from ..lab.lab import Lab
from ..lab.pod import Pod
from ..lab.silence import longest
from ..lab.waiting import until
from .failures import OBSERVED_S
from .virtual import egress_nodes

HOP, PORT = "172.16.0.1", 8080
ADDRESSES = {"first": "172.16.0.50", "second": "172.16.0.51"}
"""Address of each gateway by its name."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Measures a failover with and without a next hop of the gateway's own."
    )
    parser.add_argument("--runs", type=int, default=30, help="failovers (default: %(default)s)")
    options = parser.parse_args()
    silences: dict[bool, list[float]] = {True: [], False: []}
    for routed in ADDRESSES:
        with _lab(routed) as lab:
            pods = {name: lab.nodes["w1"].pod(name, {"app": name}) for name in ADDRESSES}
            for _ in range(options.runs // 2):
                for name, silence in _failover(lab, pods).items():
                    silences[name == routed].append(silence)
                print(*(round(each[-1]) for each in silences.values()), flush=True)
    medians = {has_hop: statistics.median(each) for has_hop, each in silences.items()}
    for has_hop, each in silences.items():
        print(f"{'with' if has_hop else 'without'} routing: median {medians[has_hop]:.0f} ms, ", end="")
        print(f"{min(each):.0f} to {max(each):.0f}, {len(each)} runs")
    print(f"with beside without: {medians[True] / medians[False]:.3f}")
    return 0


@contextmanager
def _lab(routed: str) -> Iterator[Lab]:
    """Yield a lab with both gateways; ``routed`` has a next hop, which is that of the main table, too."""
    with Lab(topology.two_routers(gateways=2)) as lab:
        for name in egress_nodes(lab):
            lab.nodes[name].machine.ip(f"route replace default via {HOP} dev eth1")
        lab.serve("beyond", PORT)
        lab.publish_nodes()
        lab.publish("objects", _objects(routed))
        lab.start_agents()
        for name in ADDRESSES:
            lab.wait_settled(name)
        yield lab


def _objects(routed: str) -> Sequence[documents.Document]:
    made = []
    for name, address in ADDRESSES.items():
        gateway = documents.virtual_gateway(name, [address], ["eth1"])
        if name == routed:
            gateway["spec"]["routing"] = {"nextHops": [HOP]}
        made += [gateway, documents.policy(f"of-{name}", name, {"app": name})]
    return made


def _failover(lab: Lab, pods: dict[str, Pod]) -> dict[str, float]:
    """Cut the master of both addresses off. Return the silence of each gateway's flow, in milliseconds."""
    for name in ADDRESSES:
        lab.wait_settled(name)
    before = lab.master("first")
    if lab.master("second") != before:
        lab.nodes["w1"].egressctl("handover", "second", "--to", before)
        until(lambda: lab.master("second") == before, f"{before} is master of both")
    with ExitStack() as stack:
        flows = {
            name: stack.enter_context(Flow(pod.machine, lab.directory / f"flow-{name}.log", PORT))
            for name, pod in pods.items()
        }
        time.sleep(0.3)
        lab.cut(before)
        try:
            struck = time.monotonic()
            until(lambda: time.monotonic() - struck > OBSERVED_S, "the time of observation is over")
            for name in ADDRESSES:
                until(lambda n=name: lab.master(n, "w1") not in ("", before), "another master")  # type: ignore[misc]
                assert pods[name].request(PORT, seconds=20).address == ADDRESSES[name]
            found = {name: longest(flow.stop()) for name, flow in flows.items()}
        finally:
            lab.mend(before)
            lab.nodes[before].machine.ip(f"route replace default via {HOP} dev eth1")
    return {name: silence.milliseconds for name, silence in found.items()}


if __name__ == "__main__":
    raise SystemExit(main())
