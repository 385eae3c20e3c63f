"""A worker that has its own LAN and nothing else: its pods reach the outside by the gateway all the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..lab import topology
from ..lab.lab import SELECTED, Lab
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with settled("test_no_default_route", topology.separate(workers=1, gateways=1)) as made:
        yield made


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_answers_reach_a_pod_of_a_node_without_a_route_to_the_outside(lab: Lab, kind: str) -> None:
    worker, gateway = lab.nodes["w1"], lab.wait_settled(GATEWAY)
    routes = worker.machine.run("ip", "route", "show", "default").strip()
    if routes:
        worker.machine.ip("route del default")
    pod = worker.pod(f"far-{kind}", BACKEND, kind)
    served = lab.nodes[gateway].host.egress_ip
    assert pod.request(SELECTED).address == served
    assert pod.datagram(SELECTED).address == served
    assert worker.agent.status()["problems"] == []
    pod.stop()


def test_a_node_whose_kernel_checks_all_sources_says_so(lab: Lab) -> None:
    """The larger of ``all`` and a device's own setting counts: there is nothing of ours to mend it by."""
    worker = lab.nodes["w1"]
    worker.machine.run("sh", "-c", "ip route del default 2>/dev/null || true")
    worker.machine.sysctl({"net/ipv4/conf/all/rp_filter": "2"})
    try:
        until(
            lambda: any("rp_filter" in problem["message"] for problem in worker.agent.status()["problems"]),
            "the problem",
            seconds=10,
        )
    finally:
        worker.machine.sysctl({"net/ipv4/conf/all/rp_filter": "0"})
    until(lambda: worker.agent.status()["problems"] == [], "the problem is over", seconds=10)
