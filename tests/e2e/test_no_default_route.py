"""A worker that has its own LAN and nothing else: its pods reach the outside by the gateway all the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..lab import topology
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.pod import Pod
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


@contextmanager
def changed(worker: Node, lines: Sequence[str], back: Sequence[str], check: str = "0") -> Iterator[None]:
    """Run ``ip`` with these lines, and with ``all.rp_filter`` = ``check``; afterwards with those that undo it."""
    worker.machine.ip(*lines)
    worker.machine.sysctl({"net/ipv4/conf/all/rp_filter": check})
    try:
        yield
    finally:
        worker.machine.sysctl({"net/ipv4/conf/all/rp_filter": "0"})
        worker.machine.ip(*back)
    until(lambda: worker.agent.status()["problems"] == [], "the problem is over", seconds=10)


def without_default_route(worker: Node) -> None:
    worker.machine.run("sh", "-c", "ip route del default 2>/dev/null || true")


def is_named(worker: Node, *words: str) -> bool:
    return any(all(w in each["message"] for w in words) for each in worker.agent.status()["problems"])


@contextmanager
def answering(worker: Node) -> Iterator[Pod]:
    """Yield a selected pod."""
    pod = worker.pod("asks", BACKEND)
    try:
        yield pod
    finally:
        pod.stop()


TO_OUTSIDE = "203.0.113.0/24"


@pytest.mark.parametrize("check", ["1", "2"])
def test_a_route_to_the_destination_is_enough_for_the_check_of_sources(lab: Lab, check: str) -> None:
    worker = lab.nodes["w1"]
    without_default_route(worker)
    route = f"{TO_OUTSIDE} via 10.0.0.1"
    with changed(worker, [f"route add {route}"], [f"route del {route}"], check), answering(worker) as pod:
        until(lambda: worker.plan().get("source_check") is True, "the setting is known", seconds=10)
        assert pod.request(SELECTED).address == lab.nodes[lab.wait_settled(GATEWAY)].host.egress_ip
        assert worker.agent.status()["problems"] == []


@pytest.mark.parametrize("kind", ["blackhole", "unreachable"])
def test_a_route_that_refuses_the_sources_of_answers_is_named(lab: Lab, kind: str) -> None:
    worker = lab.nodes["w1"]
    add = ["route replace default via 10.0.0.1", f"route add {kind} {TO_OUTSIDE}"]
    with changed(worker, add, [f"route del {kind} {TO_OUTSIDE}"], "2"), answering(worker) as pod:
        until(lambda: is_named(worker, "rp_filter", TO_OUTSIDE), "the problem", seconds=10)
        with pytest.raises(OSError):
            pod.request(SELECTED)


def test_a_rule_before_ours_is_named(lab: Lab) -> None:
    worker = lab.nodes["w1"]
    add = ["route add default via 10.0.0.1 table 101", "rule add pref 100 from all lookup 101"]
    back = ["rule del pref 100", "route del default table 101"]
    with answering(worker), changed(worker, add, back):
        until(lambda: is_named(worker, "routing rule", TO_OUTSIDE, "eth0"), "the problem", seconds=10)
