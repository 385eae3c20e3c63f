"""The egress interface is a macvlan above the node's wire: both modes, a failover, and a wire that fails."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..lab import documents, topology
from ..lab.lab import Lab
from ..lab.topology import VIRTUAL
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, LOGS

PORTS = itertools.count(9500)
UPPER = "uplink0"


@pytest.fixture(scope="module", params=["virtual", "basic"])
def lab(request: pytest.FixtureRequest, plugin: Path) -> Iterator[Lab]:
    policy = documents.policy("backend", GATEWAY, BACKEND)
    gateways = {
        "virtual": documents.virtual_gateway(GATEWAY, [VIRTUAL], [UPPER]),
        "basic": documents.gateway(GATEWAY, UPPER),
    }
    with Lab(topology.separate(workers=1, gateways=2)) as made:
        try:
            for node in made.nodes.values():
                if node.host.is_egress:
                    node.machine.ip(
                        "addr flush dev eth1",
                        f"link add {UPPER} link eth1 type macvlan mode bridge",
                        f"addr add {node.host.egress_ip}/24 dev {UPPER}",
                        f"link set {UPPER} up",
                        f"route add default via 172.16.0.1 dev {UPPER}",
                    )
            made.publish_nodes()
            made.publish("objects", [gateways[request.param], policy])
            made.start_agents()
            made.wait_settled(GATEWAY, 40)
            yield made
        finally:
            made.save_logs(LOGS / f"test_macvlan-{request.param}")


def shown(lab: Lab) -> str:
    """Return the address that the outside is to see."""
    return str(lab.nodes[lab.wait_settled(GATEWAY)].agent.status()["egressIPs"][0]["ip"])


@pytest.mark.parametrize("place", ["worker", "master"])
def test_pods_leave_by_it(lab: Lab, place: str) -> None:
    node = lab.nodes["w1" if place == "worker" else lab.wait_settled(GATEWAY)]
    lab.serve("outside", port := next(PORTS))
    pod = node.pod(f"p-{port}", BACKEND)
    with lab.capture() as capture:
        assert pod.request(port).address == shown(lab)
        assert pod.datagram(port).address == shown(lab)
        until(lambda: capture.sources(port) == {shown(lab)}, "the witness has seen the packets")


@pytest.mark.parametrize("fault", ["node cut off", "wire without carrier", "wire down", "macvlan down"])
def test_a_new_master_serves(lab: Lab, fault: str) -> None:
    before = lab.wait_settled(GATEWAY)
    machine = lab.nodes[before].machine
    lab.serve("outside", port := next(PORTS))
    pod = lab.nodes["w1"].pod(f"p-{port}", BACKEND)
    faults = {"wire down": "eth1", "macvlan down": UPPER}
    with lab.capture() as capture, lab.probing(pod, port):
        until(lambda: len(capture.packets(port)) > 50, "probes arrive")
        if fault == "node cut off":
            lab.cut(before)
        elif fault == "wire without carrier":
            lab.cut(before, "eth1")
        else:
            machine.ip(f"link set {faults[fault]} down")
        try:
            until(lambda: lab.master(GATEWAY, asked="w1") not in ("", before), "another master", 10)
            seen = len(capture.packets(port))
            until(lambda: len(capture.packets(port)) > seen + 50, "probes arrive again", 20)
        finally:
            lab.mend(before)
            machine.ip("link set eth1 up", f"link set {UPPER} up")
            machine.ip(f"route replace default via 172.16.0.1 dev {UPPER}")
        assert capture.sources(port) <= {VIRTUAL, *(node.host.egress_ip for node in lab.nodes.values())}
    lab.wait_settled(GATEWAY)
