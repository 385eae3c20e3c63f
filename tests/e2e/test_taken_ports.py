"""Without ``connectionSync``: what cannot go on behind a new master, because its port is taken, ends at once.

Two pods on two workers use the same source ports to the same destination. The first master could leave only one
connection of each pair its port. The new one knows neither: whichever of the two sends first there gets it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..lab import documents, topology
from ..lab.connections import Connections, Fates, fates
from ..lab.lab import SELECTED, Lab
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

ADDRESS = "172.16.0.50"
FIRST = 21000
"""Port below those that the kernel gives to other programs (``ip_local_port_range``)."""
COUNT = 40
PROMPT_S = 3.0
"""Seconds from the cut: the failover, and some of the intervals in which TCP sends again."""
PATIENT_S = 8.0
"""Seconds from the cut where TCP must send again three times."""
SILENT_MS = 600_000.0
"""Milliseconds from line to line: so many that none is sent."""


@pytest.fixture
def lab(plugin: Path) -> Iterator[Lab]:
    objects = documents.virtual_ip([ADDRESS], GATEWAY)
    with settled("test_taken_ports", topology.separate(workers=2, gateways=3), objects=objects) as made:
        yield made


def moved(lab: Lab, master: str, worker: str) -> list[int]:
    """Source ports of a worker's connections that the master had to replace."""
    source = lab.nodes[worker].host.ip
    listed = lab.nodes[master].machine.run("conntrack", "-L", "-p", "tcp", "--orig-src", source)
    ports = [[int(port) for port in re.findall(r"[sd]port=(\d+)", line)] for line in listed.splitlines()]
    return sorted(own for own, _, _, shown in ports if own >= FIRST and own != shown)


def through_a_cut(
    lab: Lab, first: tuple[int, int], intervals: tuple[float, float], seconds: float, replaced: int
) -> tuple[Fates, Fates]:
    """Return the fates of both workers' connections when the master is cut off after ``seconds``.

    ``first``: their first source ports. ``intervals``: from line to line, ms. ``replaced``: ports of the second one
    that the master has to replace.
    """
    master = lab.wait_settled(GATEWAY, 40)
    names = ("w1", "w2")
    pods = [lab.nodes[name].pod(f"backend-{name}", BACKEND) for name in names]
    for pod in pods:
        until(lambda p=pod: p.request(SELECTED).address == ADDRESS, "its routes lead to the master")  # type: ignore[misc]
    with lab.capture() as capture:
        loads = []
        try:
            for pod, port, interval in zip(pods, first, intervals, strict=True):
                log = lab.directory / f"{pod.name}.log"
                loads.append(Connections(pod.machine, log, SELECTED, COUNT, interval, grace=1.0, first=port))
            assert [len(moved(lab, master, name)) for name in names] == [0, replaced]
            struck = time.time_ns()
            lab.cut(master)
            until(lambda: time.time_ns() > struck + seconds * 1e9, "each has had its turn", 2 * seconds)
            one, other = (fates(load.stop(), struck) for load in loads)
            # What rules have put into sets can still be listed, by us and by others.
            successor = lab.nodes[lab.master(GATEWAY, "w1")]
            assert "elements" in successor.machine.run("nft", "list", "table", "inet", "egress_gateway_snat")
            assert [
                problem for problem in successor.agent.status()["problems"] if "nft" in str(problem)
            ] == []
        finally:
            lab.mend(master)
            for load in loads:
                load.close()
        assert capture.sources(SELECTED) == {ADDRESS}
    return one, other


def test_each_connection_goes_on_or_ends_with_a_reset(lab: Lab) -> None:
    kept, replaced = through_a_cut(lab, (FIRST, FIRST), (200, 200), PROMPT_S, COUNT)
    assert (kept.hung, replaced.hung) == (0, 0), "nobody is left to a time-out"
    assert (replaced.alive, replaced.reset) == (0, COUNT)
    assert kept.alive > 0
    assert set(kept.errors) | set(replaced.errors) == {"ECONNRESET"}


def test_a_connection_with_the_port_of_a_silent_one_is_reset_too(lab: Lab) -> None:
    _, replaced = through_a_cut(lab, (FIRST, FIRST), (SILENT_MS, 200), PATIENT_S, COUNT)
    assert (replaced.alive, replaced.hung, replaced.reset) == (0, 0, COUNT)


def test_connections_whose_ports_are_free_go_on(lab: Lab) -> None:
    one, other = through_a_cut(lab, (FIRST, FIRST + COUNT), (200, 20), PROMPT_S, 0)
    assert (one.alive, other.alive) == (COUNT, COUNT)
