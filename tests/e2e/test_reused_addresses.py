"""A pod that gets the address of one that is gone inherits nothing of its connections, whichever path each has."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..lab import topology
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.pod import Answer, Pod
from ..lab.topology import OUTSIDE
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

OTHER = {"app": "other"}
UDP_PORT, TCP_PORT = 7200, 6000


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with settled("test_reused_addresses", topology.separate(workers=1, gateways=1)) as made:
        yield made


@pytest.fixture
def node(lab: Lab) -> Iterator[Node]:
    node = lab.nodes["w1"]
    lab.wait_settled(GATEWAY)
    yield node
    if not node.agent.running:
        node.agent.start()
    until(node.agent.answers, "the agent is there")


def datagram(pod: Pod) -> str:
    """Ask from a fixed port; return the address that the outside has seen."""
    with pod.machine.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", UDP_PORT))
        sock.settimeout(1.0)
        sock.connect((OUTSIDE, SELECTED))
        sock.send(b"?")
        return Answer.of(sock.recv(200).decode()).address


def connection(pod: Pod) -> socket.socket:
    """Open a TCP connection from a fixed port, and leave it open."""
    sock = pod.machine.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # A socket that still wants to say farewell would keep the pod's network namespace.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.bind(("", TCP_PORT))
    sock.settimeout(2.0)
    sock.connect((OUTSIDE, SELECTED))
    return sock


def seen(sock: socket.socket) -> str:
    # The file would keep the socket, and so the pod's network namespace, after both are closed.
    with sock.makefile() as lines:
        return Answer.of(lines.readline()).address


@pytest.mark.parametrize("deleted", [True, False], ids=["by DEL", "DEL never came"])
@pytest.mark.parametrize("alone", [False, True], ids=["agent", "alone"])
@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_the_next_pod_with_the_address_goes_its_own_way(
    lab: Lab, node: Node, kind: str, alone: bool, deleted: bool
) -> None:
    served, own = lab.nodes[lab.wait_settled(GATEWAY)].host.egress_ip, node.host.ip
    # Room for one pod.
    network = node.network(kind, {"bridge": "10.244.250.0/30", "ptp": "10.245.250.0/30"}[kind])
    paths = ((BACKEND, served), (OTHER, own))
    for (labels, expected), (others, afterwards) in (paths, paths[::-1]):
        first = node.pod("first", labels, kind, network=network)
        assert datagram(first) == expected
        left_open = connection(first)
        assert seen(left_open) == expected
        if alone:
            node.agent.kill()
        # Nothing of its connections is closed: a container that is killed says no farewell.
        first.machine.ip("link set eth0 down")
        left_open.close()
        end(node, first, deleted)
        second = node.pod("second", others, kind, network=network)
        assert second.address == first.address
        assert datagram(second) == afterwards
        with connection(second) as sock:
            assert seen(sock) == afterwards
        second.stop()
        if alone:
            node.agent.start()
            until(node.agent.answers, "the agent is back")


def end(node: Node, pod: Pod, deleted: bool) -> None:
    """End a pod; without DEL only its address is given back, as after a reboot of the runtime's state."""
    if deleted:
        node.runtime.delete(pod.network, pod.attachment)
    pod.machine.delete()
    if not deleted:
        # The kernel takes a namespace down in its own time.
        until(lambda: f"{pod.host_interface}@" not in node.machine.run("ip", "link"), "its interface is gone")
        for leased in (node.directory / "ipam" / pod.network.name).glob("10.*"):
            leased.unlink()
