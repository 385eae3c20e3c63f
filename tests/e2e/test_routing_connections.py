"""Connections by a gateway's own next hop go on behind a new master, with ``connectionSync`` and without."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni.kernel import ids

from ..lab import documents, topology
from ..lab.connections import Connections, fates
from ..lab.lab import Lab
from ..lab.topology import VIRTUAL
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled
from .master_faults import CUT_OFF, DRAINED, Act, fates_after, standbys

MOVES: dict[str, tuple[Act, Act]] = {"drained": DRAINED, "cut off": CUT_OFF}
PORTS = itertools.count(9600)
HOP = "172.16.0.1"
COUNT = 200
LINES_NS = 800_000_000
"""Nanoseconds in which each connection sends several lines."""
NO_ANSWERS = f"""\
table ip no_answers {{
    chain out {{
        type filter hook output priority filter; policy accept;
        ip daddr {VIRTUAL} drop
    }}
}}
"""


@pytest.fixture(scope="module", params=[True, False], ids=["synced", "picked up"])
def sync(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def lab(sync: bool, plugin: Path) -> Iterator[Lab]:
    gateway = documents.virtual_gateway(GATEWAY, [VIRTUAL], ["eth1"], connection_sync=sync)
    gateway["spec"]["routing"] = {"nextHops": [HOP]}
    objects = [gateway, documents.policy("backend", GATEWAY, BACKEND)]
    with settled(f"test_routing_connections-{sync}", topology.two_routers(), objects=objects) as made:
        yield made


def serve(lab: Lab) -> int:
    """Start one service behind each router, at the same address. Return their port."""
    port = next(PORTS)
    for machine in ("beyond", "outside"):
        lab.serve(machine, port)
    return port


def await_copies(lab: Lab, names: list[str], source: str, port: int) -> None:
    """Wait until these nodes know all connections of the pods on ``source``."""
    inner = ids.inner(lab.nodes[source].host.ip, 4, synced=True)

    def known(name: str) -> int:
        listed = lab.nodes[name].machine.run("conntrack", "-L", "--orig-src", inner, "-p", "tcp")
        return sum("ESTABLISHED" in line and f"dport={port} " in line for line in listed.splitlines())

    for name in names:
        until(lambda n=name: known(n) >= COUNT, f"{name} knows them", 20)  # type: ignore[misc]


@pytest.mark.parametrize("move", MOVES)
def test_connections_go_on(lab: Lab, sync: bool, move: str) -> None:
    master, port = lab.wait_settled(GATEWAY, 40), serve(lab)
    pod = lab.nodes["w1"].pod(f"p-{port}", BACKEND)
    with lab.capture("beyond") as right, lab.capture() as wrong:
        with Connections(pod.machine, lab.directory / f"c-{port}.log", port, COUNT) as connections:
            if sync:
                await_copies(lab, standbys(lab, master), "w1", port)
            outcome = fates_after(MOVES[move], lab, master, connections)
        assert wrong.sources(port) == set()
        assert right.sources(port) == {VIRTUAL}
    pod.stop()
    assert outcome.reset == 0
    assert outcome.alive >= 0.999 * COUNT


def test_connections_of_a_pod_on_a_standby_go_on_by_the_next_master(lab: Lab, sync: bool) -> None:
    master, port = lab.wait_settled(GATEWAY, 40), serve(lab)
    at, third = standbys(lab, master)
    pod = lab.nodes[at].pod(f"p-{port}", BACKEND)
    with lab.capture("beyond") as right, lab.capture() as wrong:
        with Connections(pod.machine, lab.directory / f"c-{port}.log", port, COUNT) as connections:
            if sync:
                await_copies(lab, [third], at, port)
            struck = time.time_ns()
            lab.nodes[master].egressctl("handover", GATEWAY, "--to", third)
            until(lambda: time.time_ns() > struck + 3_000_000_000, "each has had its turn")
            outcome = fates(connections.stop(), struck)
        assert wrong.sources(port) == set()
        assert right.sources(port) == {VIRTUAL}
    pod.stop()
    assert (outcome.reset, outcome.alive) == (0, COUNT)


def test_connections_go_on_whose_answers_take_longer_than_a_line(lab: Lab, sync: bool) -> None:
    """Several packets of each pass the next master before the first answer comes back, as over a long way."""
    master, port = lab.wait_settled(GATEWAY, 40), serve(lab)
    pod, beyond = lab.nodes["w1"].pod(f"p-{port}", BACKEND), lab.machines["beyond"]
    with Connections(pod.machine, lab.directory / f"c-{port}.log", port, COUNT) as connections:
        if sync:
            await_copies(lab, standbys(lab, master), "w1", port)
        beyond.run("nft", "-f", "-", text=NO_ANSWERS)
        struck = time.time_ns()
        try:
            lab.nodes[master].egressctl("drain")
            until(lambda: lab.master(GATEWAY, "w1") not in ("", master), "another one serves")
            served = time.time_ns()
            until(lambda: time.time_ns() > served + LINES_NS, "each has sent several lines")
        finally:
            beyond.run("nft", "delete", "table", "ip", "no_answers")
            lab.nodes[master].egressctl("undrain")
        outcome = fates(connections.stop(), struck)
    pod.stop()
    assert (outcome.reset, outcome.alive) == (0, COUNT), outcome
