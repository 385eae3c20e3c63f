"""Measure the load of agents on the Kubernetes API, by the number of nodes; the lab's API server counts.

``.venv/bin/python -m tests.bench.api_load [--nodes 100,1000,5000]``; needs root. Three nodes have agents: a worker and
two egress nodes. The others are objects whose kubelets report once, all within seconds, and not once in five minutes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence

import msgspec

from ..lab import documents, topology
from ..lab.lab import Lab
from ..lab.topology import VIRTUAL
from ..lab.waiting import until
from . import report
from .scale_lab import GATEWAY, LIMIT_S, WORKER, other_node

COMMAND = ".venv/bin/python -m tests.bench.api_load"
SIZES = (100, 1_000, 5_000)
POLICIES = 100
ADDS = 7
REST_S = 20.0
REPORTS_PER_HOUR = 12
"""Reports that a kubelet writes into its ``Node`` if nothing changes: one each five minutes."""
WATCHES_PER_HOUR = 3600 / 450
"""Requests of one watch: it lasts 300 to 600 s (``reflector.WATCH_S``)."""
BOOKMARKS_PER_HOUR = 60
"""Bookmarks of one watch from a real server. The lab's server sends more."""
Traffic = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Counts of the server, see :class:`tests.lab.apiserver.traffic.Traffic`."""


class Load(msgspec.Struct, frozen=True):
    """The load of one agent on the API."""

    start_requests: int
    start_objects: int
    """Objects of the lists that the agent reads at its start."""
    watches: int
    rest_requests: float
    """Requests an hour while no object changes, without those of the watches."""
    reports: int
    """Events while each kubelet of the cluster reports once."""
    other_events: float
    """Events an hour while no object changes."""

    @property
    def requests(self) -> float:
        """Return the requests an hour of an agent at rest."""
        return self.rest_requests + self.watches * WATCHES_PER_HOUR

    @property
    def events(self) -> float:
        """Return the events and bookmarks an hour of an agent at rest, with the reports of all kubelets."""
        return self.reports * REPORTS_PER_HOUR + self.other_events + self.watches * BOOKMARKS_PER_HOUR


class Adds(msgspec.Struct, frozen=True):
    """The cost of one ADD: API requests, listed objects, and the median of the seconds."""

    requests: float
    objects: float
    seconds: float


class Measured(msgspec.Struct, frozen=True):
    """One cluster."""

    nodes: int
    worker: Load
    egress: Load
    add: Adds


def total(traffic: Traffic, agent: str, what: str, where: str = "") -> int:
    """Return the sum of one agent's counts whose question contains ``where``."""
    counts = traffic.get(agent, {}).get(what, {})
    return sum(count for question, count in counts.items() if where in question)


def between(before: Traffic, after: Traffic, agent: str, what: str, where: str = "") -> int:
    """Return what was added to a sum of :func:`total`."""
    return total(after, agent, what, where) - total(before, agent, what, where)


def load(agent: str, counts: Sequence[Traffic], rest_s: float) -> Load:
    """Return the load of one agent. ``counts``: after its start, after a rest, after a report of each kubelet."""
    started, rested, reported = counts
    watches = sum("(watch)" in question for question in started[agent]["requests"])
    requests = between(started, rested, agent, "requests") - between(
        started, rested, agent, "requests", "(watch)"
    )
    return Load(
        total(started, agent, "requests"),
        total(started, agent, "objects"),
        watches,
        requests * 3600 / rest_s,
        between(rested, reported, agent, "events", "/nodes"),
        between(started, rested, agent, "events") * 3600 / rest_s,
    )


def measure(nodes: int, rest_s: float) -> Measured:
    """Return what the agents of a cluster of this size cost."""
    with Lab(topology.separate(workers=1, gateways=2), store="kubernetes") as lab:
        assert lab.cluster is not None
        real = [documents.node(host) for host in lab.topology.nodes]
        documented = [*real, *map(other_node, range(nodes - len(real)))]
        lab.publish("nodes", documented)
        lab.publish("gateways", [documents.virtual_gateway(GATEWAY, [VIRTUAL], ["eth1"])])
        lab.publish("policies", [documents.policy(f"p-{n}", GATEWAY, {"n": str(n)}) for n in range(POLICIES)])
        lab.start_agents()
        master = lab.wait_settled(GATEWAY, LIMIT_S)
        _wait_quiet(lab)
        addresses = {name: lab.nodes[name].host.internal_ip for name in (WORKER, master)}
        counts: list[Traffic] = [lab.cluster.traffic()]
        time.sleep(rest_s)
        counts.append(lab.cluster.traffic())
        names = [str(document["metadata"]["name"]) for document in documented]
        _report(lab, names, list(addresses.values()), counts[-1])
        counts.append(lab.cluster.traffic())
        worker, egress = (load(address, counts, rest_s) for address in addresses.values())
        return Measured(nodes, worker, egress, _adds(lab, addresses[WORKER]))


def _wait_quiet(lab: Lab) -> None:
    """Wait until the agents have written what their start leads to."""
    assert lab.cluster is not None
    last = lab.cluster.requests(), time.monotonic()

    def quiet() -> bool:
        nonlocal last
        assert lab.cluster is not None
        found = lab.cluster.requests()
        last = last if found == last[0] else (found, time.monotonic())
        return time.monotonic() > last[1] + 15

    until(quiet, "the agents ask and write nothing for 15 s", LIMIT_S)


def _report(lab: Lab, names: Sequence[str], agents: Sequence[str], before: Traffic) -> None:
    """Write one report of each kubelet, and wait until the agents have as many events."""
    cluster = lab.cluster
    assert cluster is not None
    condition = {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}
    for name in names:
        cluster.call("PATCH", f"/api/v1/nodes/{name}/status", {"status": {"conditions": [condition]}})

    def rest(agent: str) -> int:
        return between(before, cluster.traffic(), agent, "bookmarks", "/nodes")

    # A bookmark after the last report says that all events before it are sent.
    sent = {agent: rest(agent) for agent in agents}
    until(lambda: all(rest(agent) > sent[agent] + 1 for agent in agents), "all events are sent", LIMIT_S)


def _adds(lab: Lab, agent: str) -> Adds:
    assert lab.cluster is not None
    worker, seconds = lab.nodes[WORKER], []
    before = lab.cluster.traffic()
    for number in range(ADDS):
        pod = worker.new_pod(f"added-{number}", {"n": "0"})
        began = time.monotonic()
        pod.start()
        seconds.append(time.monotonic() - began)
        pod.stop()
    after = lab.cluster.traffic()
    requests = between(before, after, agent, "requests") - between(
        before, after, agent, "requests", "(watch)"
    )
    objects = between(before, after, agent, "objects")
    return Adds(requests / ADDS, objects / ADDS, statistics.median(seconds))


def table(found: Sequence[Measured]) -> str:
    """Return the counts as Markdown, a column for each cluster."""
    rows: list[tuple[str, list[float]]] = []
    for role in ("worker", "egress"):
        name = "worker" if role == "worker" else "egress node (master)"
        loads: list[Load] = [getattr(each, role) for each in found]
        rows += [
            (f"{name}: requests at the start", [each.start_requests for each in loads]),
            (f"{name}: objects listed at the start", [each.start_objects for each in loads]),
            (f"{name}: watches", [each.watches for each in loads]),
            (f"{name}: events for one report of each kubelet", [each.reports for each in loads]),
            (f"{name}: **requests an hour**", [each.requests for each in loads]),
            (f"{name}: **events an hour**", [each.events for each in loads]),
        ]
    rows += [
        ("ADD: requests", [each.add.requests for each in found]),
        (f"ADD: listed objects ({POLICIES} policies)", [each.add.objects for each in found]),
    ]
    lines = [
        "| nodes | " + " | ".join(f"{each.nodes:,}" for each in found) + " |",
        "|---|" + "---|" * len(found),
    ]
    lines += [
        f"| {name} | " + " | ".join(f"{value:,.0f}" for value in values) + " |" for name, values in rows
    ]
    taken = [each.add.seconds for each in found]
    cells = [f"{taken[0]:.3f}", *(f"{value:.3f} (×{value / taken[0]:.2f})" for value in taken[1:])]
    return "\n".join([*lines, "| ADD, median, s | " + " | ".join(cells) + " |"]) + "\n"


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(
        prog="tests.bench.api_load", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--nodes", default=",".join(map(str, SIZES)), help="sizes of the cluster")
    parser.add_argument("--rest", type=float, default=REST_S, metavar="SECONDS", help="for the time at rest")
    options = parser.parse_args()
    found = []
    for nodes in map(int, options.nodes.split(",")):
        found.append(measure(nodes, options.rest))
        print(found[-1], file=sys.stderr, flush=True)
    print("\n".join((f"`{' '.join((COMMAND, *sys.argv[1:]))}`", "", report.machine(), "", table(found))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
