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
from ..lab.topology import OUTSIDE, OUTSIDE6, beside
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

REPORTER = {"app": "reporter"}
"""Labels of a pod that is selected for another gateway."""
OTHER = {"app": "other"}
SECOND_GATEWAY = "second"
ADDRESSES = {GATEWAY: "172.16.0.50", SECOND_GATEWAY: "172.16.0.60"}
MASTER = "g1"
SERVICES = (OUTSIDE, OUTSIDE6)
SUBNETS = {
    "bridge": ("10.244.250.0/30", "fd00:244:250::/126"),
    "ptp": ("10.245.250.0/30", "fd00:245:250::/126"),
}
"""Networks with room for one pod: of IPv6 addresses the first one is always taken."""
UDP_PORT, TCP_PORT = 7200, 6000
PATHS = ((BACKEND, GATEWAY), (REPORTER, SECOND_GATEWAY))
CASES = [
    pytest.param(node, kind, agent == "alone", deleted == "by DEL", id=f"{place}-{kind}-{agent}-{deleted}")
    for place, node, kind, agent, deleted in (
        ("worker", "w1", "bridge", "agent", "by DEL"),
        ("worker", "w1", "bridge", "alone", "DEL never came"),
        ("worker", "w1", "ptp", "agent", "DEL never came"),
        ("worker", "w1", "ptp", "alone", "by DEL"),
        ("master", MASTER, "bridge", "agent", "DEL never came"),
        ("master", MASTER, "ptp", "agent", "by DEL"),
    )
]
"""Each two values meet; a master whose agent is away for long is no master any more."""


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    destinations = ["203.0.113.0/24", "2001:db8:113::/64"]
    shown = {name: [address, beside(address)] for name, address in ADDRESSES.items()}
    objects = [
        *documents.virtual_ip(shown[GATEWAY], GATEWAY, destinations=destinations),
        documents.virtual_gateway(SECOND_GATEWAY, shown[SECOND_GATEWAY]),
        documents.policy("reporter", SECOND_GATEWAY, REPORTER, destinations),
    ]
    machines = topology.dual_stack(workers=1, gateways=2)
    with settled("test_reused_addresses", machines, objects=objects) as made:
        # A master of all has seen the ports by the other gateway.
        for name, addresses in shown.items():
            made.wait_settled(name)
            for address in addresses:
                made.nodes["w1"].egressctl("handover", name, "--ip", address, "--to", MASTER)
        yield made


@pytest.fixture
def node(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Node]:
    node = lab.nodes[request.param]
    for name in ADDRESSES:
        lab.wait_settled(name)
    yield node
    if not node.agent.running:
        node.agent.start()
    until(node.agent.answers, "the agent is there")


def datagram(pod: Pod, service: str, lost: int = 0) -> str:
    """Ask from a fixed port; return the address that the outside has seen.

    ``lost``: so many questions may have no answer.
    """
    with pod.machine.socket(family_of(service), socket.SOCK_DGRAM) as sock:
        sock.bind(("", UDP_PORT))
        sock.settimeout(1.0)
        sock.connect((service, SELECTED))
        for _ in range(lost):
            sock.send(b"?")
            with contextlib.suppress(TimeoutError):
                return Answer.of(sock.recv(200).decode()).address
        sock.send(b"?")
        return Answer.of(sock.recv(200).decode()).address


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def connection(pod: Pod, service: str) -> socket.socket:
    """Open a TCP connection from a fixed port, and leave it open."""
    sock = pod.machine.socket(family_of(service), socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # A socket that still wants to say farewell would keep the pod's network namespace.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.bind(("", TCP_PORT))
    # The first SYN may be lost as a datagram may, and the outside may ask about the one that was left open.
    sock.settimeout(5.0)
    sock.connect((service, SELECTED))
    return sock


def seen(sock: socket.socket) -> str:
    # The file would keep the socket, and so the pod's network namespace, after both are closed.
    with sock.makefile() as lines:
        return Answer.of(lines.readline()).address


@pytest.mark.parametrize(("node", "kind", "alone", "deleted"), CASES, indirect=["node"])
def test_the_next_pod_with_the_address_goes_its_own_way(
    lab: Lab, node: Node, kind: str, alone: bool, deleted: bool
) -> None:
    """From each of two gateways and from no gateway to each other of these; of a worker and of the master itself."""
    one, another = ((labels, ADDRESSES[name]) for labels, name in PATHS)
    none = (OTHER, node.host.egress_ip)
    network = node.network(kind, *SUBNETS[kind])
    addresses = set()
    before = none
    for number, path in enumerate((one, none, one, another, none, another, one)):
        labels, expected = path
        pod = node.pod(f"pod-{number}", labels, kind, network=network)
        addresses.add(tuple(each["address"] for each in pod.result["ips"]))
        # The master knows the port by the other gateway, and forgets that with the first packet.
        lost = int(none not in (before, path))
        open_now = []
        for service, shown in zip(SERVICES, (expected, beside(expected)), strict=True):
            assert datagram(pod, service, lost) == shown, (number, labels)
            open_now.append(connection(pod, service))
            assert seen(open_now[-1]) == shown
        before = path
        if alone and node.agent.running:
            node.agent.kill()
        # Nothing of its connections is closed: a container that is killed says no farewell.
        pod.machine.ip("link set eth0 down")
        for left_open in open_now:
            left_open.close()
        end(node, pod, deleted)
    assert len(addresses) == 1


def end(node: Node, pod: Pod, deleted: bool) -> None:
    """End a pod; without DEL only its addresses are given back, as after a reboot of the runtime's state."""
    if deleted:
        node.runtime.delete(pod.network, pod.attachment)
    pod.machine.delete()
    if not deleted:
        # The kernel takes a namespace down in its own time.
        until(lambda: f"{pod.host_interface}@" not in node.machine.run("ip", "link"), "its interface is gone")
    # The address that was given out last is remembered too.
    for leased in (node.directory / "ipam" / pod.network.name).iterdir():
        if leased.name != "lock":
            leased.unlink()
