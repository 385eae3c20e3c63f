"""The egress network has a router of its own: nothing leaves by the node's default route."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from cni.kernel import ids

from ..lab import documents, topology
from ..lab.capture import Capture
from ..lab.lab import Lab
from ..lab.pod import Pod
from ..lab.topology import VIRTUAL
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled
from .path_reports import NAMED_S, examined, reason_of

PORTS = itertools.count(9300)
HOP = "172.16.0.1"
TABLE = ids.EXIT_TABLE_BASE + 1


def objects(virtual: bool) -> list[documents.Document]:
    shown = (
        documents.virtual_gateway(GATEWAY, [VIRTUAL], ["eth1"])
        if virtual
        else documents.gateway(GATEWAY, "eth1")
    )
    shown["spec"]["routing"] = {"nextHops": [HOP]}
    return [shown, documents.policy("backend", GATEWAY, BACKEND)]


@pytest.fixture(scope="module", params=["virtual", "basic"])
def lab(request: pytest.FixtureRequest, plugin: Path) -> Iterator[Lab]:
    name = f"test_own_next_hop-{request.param}"
    with settled(name, topology.two_routers(), objects=objects(request.param == "virtual")) as made:
        yield made


def shown(lab: Lab) -> str:
    master = lab.wait_settled(GATEWAY)
    spec = lab.nodes[master].agent.status()["egressIPs"][0]
    return str(spec["ip"])


@pytest.mark.parametrize("place", ["worker", "master", "standby"])
def test_packets_leave_by_the_gateways_own_router(lab: Lab, place: str) -> None:
    master = lab.wait_settled(GATEWAY)
    others = [name for name, node in lab.nodes.items() if node.host.is_egress and name != master]
    node = {"worker": "w1", "master": master, "standby": others[0]}[place]
    lab.serve("beyond", port := next(PORTS))
    lab.serve("outside", port)
    pod = lab.nodes[node].pod(f"p-{port}", BACKEND)
    with lab.capture("beyond") as right, lab.capture() as wrong:
        assert pod.request(port).address == shown(lab)
        assert pod.datagram(port).address == shown(lab)
        until(lambda: right.sources(port) == {shown(lab)}, "the witness has seen the packets")
        assert wrong.sources(port) == set()


def selected(lab: Lab, node: str) -> tuple[Pod, int]:
    """Return a new selected pod, and the port of a new service behind both routers."""
    port = next(PORTS)
    for machine in ("beyond", "outside"):
        lab.serve(machine, port)
    return lab.nodes[node].pod(f"p-{port}", BACKEND), port


def more_arrive(witness: Capture, port: int) -> None:
    seen = len(witness.packets(port))
    until(lambda: len(witness.packets(port)) > seen + 50, "probes arrive again", 20)


@contextmanager
def everywhere(lab: Lab, *commands: str, undo: Sequence[str]) -> Iterator[None]:
    """Run ``ip`` commands on every egress node, and those that undo them."""
    machines = [node.machine for node in lab.nodes.values() if node.host.is_egress]
    for machine in machines:
        machine.ip(*commands)
    try:
        yield
    finally:
        for machine in machines:
            machine.ip(*undo)


MAIN_TABLES = {
    "a better route elsewhere": (["route add 203.0.113.0/24 via 10.0.0.1"], ["route del 203.0.113.0/24"]),
    "a second default route": (
        ["route add default via 172.16.0.9 dev eth1 metric 5"],
        ["route del default metric 5"],
    ),
    "no default route": (["route del default"], ["route add default via 10.0.0.1"]),
    "no route to there": (["route add unreachable 203.0.113.10"], ["route del unreachable 203.0.113.10"]),
}


@pytest.mark.parametrize("place", ["worker", "master"])
@pytest.mark.parametrize("found", MAIN_TABLES)
def test_the_main_table_has_no_say(lab: Lab, place: str, found: str) -> None:
    commands, undo = MAIN_TABLES[found]
    pod, port = selected(lab, "w1" if place == "worker" else lab.wait_settled(GATEWAY))
    with everywhere(lab, *commands, undo=undo), lab.capture("beyond") as right, lab.capture() as wrong:
        assert pod.request(port).address == shown(lab)
        assert pod.datagram(port).address == shown(lab)
        until(lambda: right.sources(port) == {shown(lab)}, "the witness has seen the packets")
        assert wrong.sources(port) == set()


@pytest.mark.parametrize("place", ["worker", "master"])
@pytest.mark.parametrize("what", ["rule", "route", "both, and a better route"])
def test_who_deletes_a_rule_or_route_lets_nothing_out_elsewhere(lab: Lab, place: str, what: str) -> None:
    """Even on the very interface: a host route leads to another router there."""
    master = lab.wait_settled(GATEWAY)
    pod, port = selected(lab, "w1" if place == "worker" else master)
    machine = lab.nodes[master].machine
    with lab.capture("beyond") as right, lab.capture() as wrong, lab.probing(pod, port):
        until(lambda: len(right.packets(port)) > 100, "probes arrive")
        machine.ip("route add 203.0.113.10 via 10.0.0.1")
        try:
            for _ in range(5):
                if what != "route":
                    machine.ip(f"rule del table {TABLE}")
                if what != "rule":
                    machine.ip(f"route flush table {TABLE}")
                # What the witness has not read yet came before.
                until(lambda: str(TABLE) in machine.run("ip", "rule"), "the rule is there again", 20)
                more_arrive(right, port)
        finally:
            machine.ip("route del 203.0.113.10")
        assert wrong.sources(port) == set()
        # A route that is missing when the node looks makes it hand over; in basic mode with another address.
        assert right.sources(port) <= {VIRTUAL, *(node.host.egress_ip for node in lab.nodes.values())}


@pytest.mark.parametrize("fault", ["node cut off", "egress interface down", "drained"])
def test_a_new_master_goes_by_the_same_router(lab: Lab, fault: str) -> None:
    before = lab.wait_settled(GATEWAY)
    pod, port = selected(lab, "w1")
    with lab.capture("beyond") as right, lab.capture() as wrong, lab.probing(pod, port):
        until(lambda: len(right.packets(port)) > 100, "probes arrive")
        if fault == "node cut off":
            lab.cut(before)
        elif fault == "egress interface down":
            lab.nodes[before].machine.ip("link set eth1 down")
        else:
            lab.nodes[before].egressctl("drain")
        until(lambda: lab.master(GATEWAY, asked="w1") not in ("", before), "another master", 10)
        more_arrive(right, port)
        lab.mend(before)
        lab.nodes[before].machine.ip("link set eth1 up")
        if fault == "drained":
            lab.nodes[before].egressctl("undrain")
        assert wrong.sources(port) == set()
    lab.wait_settled(GATEWAY)


def test_a_next_hop_that_does_not_answer_is_named_and_moves_the_master(lab: Lab) -> None:
    before = lab.wait_settled(GATEWAY)
    guard = "add table netdev silent; add chain netdev silent in { type filter hook ingress device eth1 priority 0; }; "
    guard += f"add rule netdev silent in arp saddr ip {HOP} drop"
    machine = lab.nodes[before].machine
    machine.run("nft", guard)
    try:
        silent = f"next hop {HOP} does not answer on eth1"
        until(lambda: reason_of(lab, before) == silent, f"{before} says why", NAMED_S)
        assert examined(lab, before) == [silent]
        until(lambda: lab.master(GATEWAY, asked="w1") not in ("", before), "another master", NAMED_S)
    finally:
        machine.run("nft", "delete table netdev silent")
    lab.wait_settled(GATEWAY)


def test_explain_asks_for_the_route_on_the_master(lab: Lab) -> None:
    master = lab.wait_settled(GATEWAY)
    pod, _ = selected(lab, master)
    answer = json.loads(lab.nodes[master].egressctl("explain", pod.name, "203.0.113.10", "-o", "json"))
    assert {"step": "exit", "result": "eth1", "reason": f"next hop {HOP}"} in answer["steps"]


@pytest.mark.parametrize("place", ["worker", "master"])
@pytest.mark.parametrize("value", ["0", "1", "2"])
def test_answers_pass_every_source_check(lab: Lab, place: str, value: str) -> None:
    master = lab.wait_settled(GATEWAY)
    machine = lab.nodes[master].machine
    pod, port = selected(lab, "w1" if place == "worker" else master)
    machine.run("sysctl", "-qw", f"net.ipv4.conf.eth1.rp_filter={value}")
    try:
        assert pod.request(port).address == shown(lab)
        assert lab.wait_settled(GATEWAY) == master
    finally:
        machine.run("sysctl", "-qw", "net.ipv4.conf.eth1.rp_filter=2")
