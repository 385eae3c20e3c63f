"""``spec.routing`` is edited while packets pass: none leaves by another router, no answer goes beside its tunnel."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni.kernel import ids

from ..lab import documents, topology
from ..lab.documents import Document
from ..lab.lab import Lab
from ..lab.node import Node
from ..lab.topology import OUTSIDE, VIRTUAL
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

PORTS = itertools.count(9500)
HOP = "172.16.0.1"
TABLE = ids.EXIT_TABLE_BASE + 1
ROUNDS = 4
VARIANTS: dict[str, dict[str, object] | None] = {
    "next hop": {"nextHops": [HOP]},
    "table": {"table": 500},
    "another table": {"table": 501},
    "on link": {"nextHops": [HOP], "prefixLength": 24},
    "none": None,
}


def objects(routing: dict[str, object] | None) -> list[Document]:
    made = documents.virtual_gateway(GATEWAY, [VIRTUAL], ["eth1"])
    if routing is not None:
        made["spec"]["routing"] = routing
    return [made, documents.policy("backend", GATEWAY, BACKEND)]


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with settled(
        "test_routing_edits", topology.two_routers(gateways=2), objects=objects({"nextHops": [HOP]})
    ) as made:
        for node in egress_nodes(made):
            node.machine.ip(*(f"route add default via {HOP} dev eth1 table {table}" for table in (500, 501)))
        yield made


def egress_nodes(lab: Lab) -> list[Node]:
    return [node for node in lab.nodes.values() if node.host.is_egress]


def follows(node: Node, name: str) -> bool:
    """Return True if the rules and routes of a node are those of a variant."""
    rules = node.machine.run("ip", "rule")
    routing = VARIANTS[name]
    if routing is None:
        return str(TABLE) not in rules
    if "table" in routing:
        return f"lookup {routing['table']}" in rules
    routes = node.machine.run("ip", "route", "show", "table", "all")
    on_link = f"172.16.0.0/24 dev eth1 table {TABLE}" in routes
    return f"default via {HOP} dev eth1 table {TABLE}" in routes and on_link == ("prefixLength" in routing)


@pytest.mark.parametrize("place", ["worker", "master"])
def test_who_deletes_the_rules_for_answers_lets_none_out(lab: Lab, place: str) -> None:
    master = lab.wait_settled(GATEWAY)
    port = next(PORTS)
    lab.serve("beyond", port)
    pod = lab.nodes["w1" if place == "worker" else master].pod(f"p-{port}", BACKEND)
    machine, priority = lab.nodes[master].machine, f"{ids.ANSWER_PRIORITY}:"
    with (
        lab.capture("beyond") as right,
        lab.capture("border") as egress_wire,
        lab.capture("w1") as worker,
        lab.probing(pod, port),
    ):
        for _ in range(10):
            seen = len(right.packets(port))
            while priority in machine.run("ip", "rule"):
                machine.run("ip", "rule", "del", "priority", str(ids.ANSWER_PRIORITY))
            until(lambda: machine.run("ip", "rule").count(priority) == 2, "the rules are there again", 20)
            until(lambda s=seen: len(right.packets(port)) > s + 50, "probes arrive", 20)  # type: ignore[misc]
        assert OUTSIDE not in egress_wire.sources()
        assert OUTSIDE not in worker.sources()
    pod.stop()


@pytest.mark.parametrize("place", ["worker", "master"])
@pytest.mark.parametrize("main", ["elsewhere", "by the egress network"])
def test_an_edit_lets_nothing_out_elsewhere(lab: Lab, place: str, main: str) -> None:
    """``main``: where the main table leads. Without routing it must lead to the egress network."""
    by_egress = main == "by the egress network"
    if by_egress:
        for node in egress_nodes(lab):
            node.machine.ip(f"route replace default via {HOP} dev eth1")
    master = lab.wait_settled(GATEWAY)
    port = next(PORTS)
    for machine in ("beyond", "outside"):
        lab.serve(machine, port)
    pod = lab.nodes["w1" if place == "worker" else master].pod(f"p-{port}", BACKEND)
    variants = [name for name in VARIANTS if by_egress or VARIANTS[name] is not None]
    try:
        with (
            lab.capture("beyond") as right,
            lab.capture() as wrong,
            lab.capture("border") as egress_wire,
            lab.capture("w1") as worker,
            lab.probing(pod, port) as probing,
        ):
            for name in variants * ROUNDS:
                lab.publish("objects", objects(VARIANTS[name]))
                until(lambda n=name: all(follows(each, n) for each in egress_nodes(lab)), name, 20)  # type: ignore[misc]
                seen = len(right.packets(port))
                until(lambda s=seen: len(right.packets(port)) > s + 50, "probes arrive", 20)  # type: ignore[misc]
            assert wrong.sources(port) == set()
            assert right.sources(port) == {VIRTUAL}
            assert egress_wire.sources(port) == {VIRTUAL}
            # Answers of the service go into the tunnel, or to the pod: not back, and not plain to the worker.
            assert OUTSIDE not in egress_wire.sources()
            assert OUTSIDE not in worker.sources()
            assert lab.master(GATEWAY) == master
            probes = probing.stop()
            print(f"{sum(not p.address for p in probes)} of {len(probes)} without an answer")
    finally:
        lab.publish("objects", objects(VARIANTS["next hop"]))
        for node in egress_nodes(lab):
            node.machine.ip("route replace default via 10.0.0.1 dev eth0")
        pod.stop()
    lab.wait_settled(GATEWAY)
