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
from ..lab.waiting import PATIENCE_S, until
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
LOST_BY_DESIGN = 1
"""Packets that a pod loses if the master knows its port by the other gateway: the first makes the master forget."""
LOST_FOR_LOAD = 40
"""More packets that a pod may lose, in 10 s: on a machine that runs other labs a lease may end, or the agent wait for
processor time. An inherited entry of the connection table would last for as long as the pod sends.
"""
ANSWER_TIMEOUT_S = 0.25
"""Seconds until a packet counts as lost."""
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
    # After a failure there may be a pod left.
    for pod in node.pods.values():
        pod.machine.delete()
    for network in (node.directory / "ipam").glob("*"):
        give_back(network)
    if not node.agent.running:
        node.agent.start()
    until(node.agent.answers, "the agent is there")


def datagram(pod: Pod, service: str) -> str:
    """Ask from a fixed port until an answer comes; return the address that the outside has seen."""
    with pod.machine.socket(family_of(service), socket.SOCK_DGRAM) as sock:
        sock.bind(("", UDP_PORT))
        sock.settimeout(ANSWER_TIMEOUT_S)
        sock.connect((service, SELECTED))
        for _ in range(LOST_BY_DESIGN + LOST_FOR_LOAD):
            sock.send(b"?")
            with contextlib.suppress(TimeoutError):
                return answer(sock)
        sock.send(b"?")
        return answer(sock)


def answer(sock: socket.socket) -> str:
    return Answer.of(sock.recv(200).decode()).address


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def connection(pod: Pod, service: str) -> socket.socket:
    """Open a TCP connection from a fixed port, and leave it open.

    Each try sends one SYN, and a second one if the outside asks about the connection that was left open. The kernel's
    own repetitions would come a second apart.
    """
    for _ in range(LOST_BY_DESIGN + LOST_FOR_LOAD):
        with contextlib.suppress(TimeoutError):
            return connected(pod, service)
    return connected(pod, service)


def connected(pod: Pod, service: str) -> socket.socket:
    sock = pod.machine.socket(family_of(service), socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A socket that still wants to say farewell would keep the pod's network namespace.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.bind(("", TCP_PORT))
        sock.settimeout(ANSWER_TIMEOUT_S)
        sock.connect((service, SELECTED))
        sock.settimeout(PATIENCE_S)
    except BaseException:
        sock.close()
        raise
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
    for number, (labels, expected) in enumerate((one, none, one, another, none, another, one)):
        pod = node.pod(f"pod-{number}", labels, kind, network=network)
        addresses.add(tuple(each["address"] for each in pod.result["ips"]))
        with contextlib.ExitStack() as open_now:
            for service, shown in zip(SERVICES, (expected, beside(expected)), strict=True):
                assert datagram(pod, service) == shown, (number, labels)
                assert seen(open_now.enter_context(connection(pod, service))) == shown
            if alone and node.agent.running:
                node.agent.kill()
            # Nothing of its connections is closed: a container that is killed says no farewell.
            pod.machine.ip("link set eth0 down")
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
    give_back(node.directory / "ipam" / pod.network.name)


def give_back(network: Path) -> None:
    """Free the addresses of a network; the one that was given out last is remembered too."""
    for leased in network.iterdir():
        if leased.name != "lock":
            leased.unlink()
