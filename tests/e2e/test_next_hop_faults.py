"""A next hop that answers ARP and forwards nothing: ``health.upstream`` asks by the path of pods' packets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..lab import documents, topology
from ..lab.lab import Lab
from ..lab.topology import OUTSIDE, VIRTUAL
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled
from .path_reports import NAMED_S, reason_of

PORTS = itertools.count(9800)
SILENT = f"upstream {OUTSIDE} does not answer"


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    shown = documents.virtual_gateway(GATEWAY, [VIRTUAL], ["eth1"])
    shown["spec"]["routing"] = {"nextHops": ["172.16.0.1"]}
    objects = [shown, documents.policy("backend", GATEWAY, BACKEND)]
    # A machine with this address answers by the main table, too, and from the egress interface.
    options = {"health": {"upstream": [OUTSIDE]}}
    with settled("test_next_hop_faults", topology.two_routers(gateways=2), options, objects) as made:
        yield made


@contextmanager
def forwarding_nothing(lab: Lab, source: str) -> Iterator[None]:
    """Let the router of the egress network answer ARP, and forward nothing of a source."""
    rules = "add table ip lost; add chain ip lost f { type filter hook forward priority 0; }; "
    border = lab.machines["border"]
    border.run("nft", f"{rules} add rule ip lost f ip saddr {source} drop")
    try:
        yield
    finally:
        border.run("nft", "delete table ip lost")


def test_a_node_whose_packets_it_does_not_forward_hands_over(lab: Lab) -> None:
    before = lab.wait_settled(GATEWAY)
    pod, port = lab.nodes["w1"].pod("lost", BACKEND), next(PORTS)
    for machine in ("beyond", "outside"):
        lab.serve(machine, port)
    with lab.capture() as wrong, forwarding_nothing(lab, lab.nodes[before].host.egress_ip):
        until(lambda: SILENT in reason_of(lab, before), f"{before} says why", NAMED_S)
        until(lambda: lab.master(GATEWAY, asked="w1") not in ("", before), "another master", NAMED_S)
        assert pod.request(port).address == VIRTUAL
        assert wrong.sources(port) == set()
    until(lambda: reason_of(lab, before) == "", f"{before} is ready", 20)


def test_a_router_that_forwards_nothing_is_named_by_all_nodes(lab: Lab) -> None:
    lab.wait_settled(GATEWAY)
    with forwarding_nothing(lab, "0.0.0.0/0"):
        for node in ("g1", "g2"):
            until(lambda n=node: SILENT in reason_of(lab, n), f"{node} says why", NAMED_S)  # type: ignore[misc]
        until(lambda: not lab.master(GATEWAY, asked="w1"), "no master", NAMED_S)
    lab.wait_settled(GATEWAY, 20)
