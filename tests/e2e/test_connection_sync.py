"""``connectionSync``: the standbys' kernels know the connections, so all of them go on when the master dies."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni.kernel import ids

from ..lab import documents, topology
from ..lab.connections import Connections
from ..lab.lab import SELECTED, Lab
from ..lab.pod import Pod
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled
from .master_faults import CUT_OFF, DRAINED, Act, fates_after, standbys

MOVES: dict[str, tuple[Act, Act]] = {
    "drained": DRAINED,
    "cut off": CUT_OFF,
    "its label taken away": (
        lambda lab, master: lab.publish_nodes(unlabelled=master),
        lambda lab, master: lab.publish_nodes(),
    ),
}
"""Faults of the master, each with the act that undoes it."""
ADDRESS = "172.16.0.50"
COUNT = 1000


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    objects = documents.virtual_ip([ADDRESS], GATEWAY, connection_sync=True)
    with settled("test_connection_sync", topology.separate(workers=1), objects=objects) as made:
        yield made


def entries(lab: Lab, name: str, source: str = "w1") -> int:
    """Return the number of synced connections of the pods on ``source`` in the node's kernel."""
    inner = ids.inner(lab.nodes[source].host.ip, 4, synced=True)
    listed = lab.nodes[name].machine.run("conntrack", "-L", "--orig-src", inner, "-p", "tcp")
    return sum("ESTABLISHED" in line and ADDRESS in line for line in listed.splitlines())


def test_a_node_whose_sync_device_was_removed_receives_from_the_others_again(lab: Lab, pod: Pod) -> None:
    master = lab.wait_settled(GATEWAY, 40)
    standby = standbys(lab, master)[0]
    machine = lab.nodes[standby].machine
    machine.ip("link del egw-sync")
    until(lambda: "egw-sync" in machine.run("ip", "-o", "link"), "the agent makes it anew", 15)
    with Connections(pod.machine, lab.directory / "connections.log", SELECTED, 50):
        until(lambda: entries(lab, standby) >= 50, f"{standby} knows them", 20)


@pytest.mark.parametrize("move", MOVES)
def test_connections_go_on(lab: Lab, pod: Pod, move: str) -> None:
    master = lab.wait_settled(GATEWAY, 40)
    with Connections(pod.machine, lab.directory / "connections.log", SELECTED, COUNT) as connections:
        for name in standbys(lab, master):
            until(lambda n=name: entries(lab, n) >= COUNT, f"{name} knows them", 20)  # type: ignore[misc]
        outcome = fates_after(MOVES[move], lab, master, connections)
    assert outcome.reset == 0
    assert outcome.alive >= 0.999 * COUNT


def test_connections_of_a_pod_on_a_standby_go_on_by_the_next_master(lab: Lab) -> None:
    master = lab.wait_settled(GATEWAY, 40)
    at, third = standbys(lab, master)
    own = lab.nodes[at].pod("on-standby", BACKEND)
    connection = own.connect(SELECTED)
    try:
        connection.echo("before")
        until(lambda: entries(lab, third, at) == 1, "the third node knows it", 20)
        lab.nodes[master].egressctl("handover", GATEWAY, "--to", third)
        assert connection.echo("after") == "after"
    finally:
        connection.close()
        own.stop()


def test_no_other_connection_is_copied(lab: Lab, pod: Pod) -> None:
    """A worker's own, to the master itself, at the same time as one of its pods'."""
    master = lab.wait_settled(GATEWAY, 40)
    worker, gateway = lab.nodes["w1"], lab.nodes[master]
    lab.serve(master, 9400)
    before = {name: entries(lab, name) for name in standbys(lab, master)}
    with worker.machine.socket(socket.AF_INET, socket.SOCK_STREAM) as own:
        own.connect((gateway.host.ip, 9400))
        connection = pod.connect(SELECTED)
        connection.echo("before")
        known = f"src={worker.host.ip} dst={gateway.host.ip}"
        assert known in gateway.machine.run("conntrack", "-L", "-p", "tcp")
        for name, count in before.items():
            until(lambda n=name, c=count: entries(lab, n) > c, f"{name} knows the pod's", 20)  # type: ignore[misc]
            assert known not in lab.nodes[name].machine.run("conntrack", "-L", "-p", "tcp")
        connection.close()
