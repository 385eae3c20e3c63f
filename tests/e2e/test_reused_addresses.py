"""A pod that gets the address of one that is gone inherits nothing of its connections, whichever path each has."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..lab import documents, topology
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.pod import Answer, Pod
from ..lab.topology import OUTSIDE
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

REPORTER = {"app": "reporter"}
"""Labels of a pod that is selected for another gateway."""
OTHER = {"app": "other"}
SECOND_GATEWAY = "second"
VIRTUAL = "172.16.0.50"
UDP_PORT, TCP_PORT = 7200, 6000


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    machines = topology.separate(workers=1, gateways=2)
    second = [
        documents.virtual_gateway(SECOND_GATEWAY, [VIRTUAL]),
        documents.policy("reporter", SECOND_GATEWAY, REPORTER, ["203.0.113.0/24"]),
    ]
    objects = [*documents.basic_mode(machines.egress_interface, GATEWAY), *second]
    with settled("test_reused_addresses", machines, objects=objects) as made:
        # A master of both has seen the ports by the other gateway.
        master = made.wait_settled(GATEWAY)
        if made.wait_settled(SECOND_GATEWAY) != master:
            made.nodes["w1"].egressctl("handover", SECOND_GATEWAY, "--to", master)
        yield made


@pytest.fixture
def node(lab: Lab) -> Iterator[Node]:
    node = lab.nodes["w1"]
    lab.wait_settled(GATEWAY)
    yield node
    if not node.agent.running:
        node.agent.start()
    until(node.agent.answers, "the agent is there")


def datagram(pod: Pod, lost: int = 0) -> str:
    """Ask from a fixed port; return the address that the outside has seen.

    ``lost``: so many questions may have no answer.
    """
    with pod.machine.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", UDP_PORT))
        sock.settimeout(1.0)
        sock.connect((OUTSIDE, SELECTED))
        for _ in range(lost):
            sock.send(b"?")
            with contextlib.suppress(TimeoutError):
                return Answer.of(sock.recv(200).decode()).address
        sock.send(b"?")
        return Answer.of(sock.recv(200).decode()).address


def connection(pod: Pod) -> socket.socket:
    """Open a TCP connection from a fixed port, and leave it open."""
    sock = pod.machine.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # A socket that still wants to say farewell would keep the pod's network namespace.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.bind(("", TCP_PORT))
    # The first SYN may be lost as a datagram may, and the outside may ask about the one that was left open.
    sock.settimeout(5.0)
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
    """From each of two gateways and from no gateway to each other of these."""
    lab.wait_settled(SECOND_GATEWAY)
    one = (BACKEND, lab.nodes[lab.wait_settled(GATEWAY)].host.egress_ip)
    another, none = (REPORTER, VIRTUAL), (OTHER, node.host.ip)
    # Room for one pod.
    network = node.network(kind, {"bridge": "10.244.250.0/30", "ptp": "10.245.250.0/30"}[kind])
    addresses = set()
    before = none
    for number, path in enumerate((one, none, one, another, none, another, one)):
        labels, expected = path
        pod = node.pod(f"pod-{number}", labels, kind, network=network)
        addresses.add(pod.address)
        # The master knows the port by the other gateway, and forgets that with the first packet.
        assert datagram(pod, lost=int(none not in (before, path))) == expected, (number, labels)
        before = path
        left_open = connection(pod)
        assert seen(left_open) == expected
        if alone and node.agent.running:
            node.agent.kill()
        # Nothing of its connections is closed: a container that is killed says no farewell.
        pod.machine.ip("link set eth0 down")
        left_open.close()
        end(node, pod, deleted)
    assert len(addresses) == 1


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
