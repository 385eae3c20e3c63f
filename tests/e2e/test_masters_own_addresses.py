"""Addresses of the master that no inventory names: another program's, such as kube-vip's, or of a second network.

A policy leads a pod's packets for them to the gateway, whose master is the machine that has them.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..lab import documents, topology
from ..lab.lab import SELECTED, Lab
from ..lab.namespace import Namespace
from ..lab.pod import Pod
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

VIRTUAL = "172.16.0.50"
FOREIGN = "203.0.113.60"
"""Another machine's address among the policy's destinations."""
EXTERNAL = "203.0.113.61"
PORT = 7070


@pytest.fixture(scope="module", params=[False, True], ids=["", "connections are synced"])
def lab(plugin: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    led = ("203.0.113.0/24", f"{VIRTUAL}/32")
    objects = documents.virtual_ip([VIRTUAL], GATEWAY, destinations=led, connection_sync=request.param)
    with settled(
        "test_masters_own_addresses", topology.separate(workers=1, gateways=2), objects=objects
    ) as made:
        yield made


@contextmanager
def served(machine: Namespace, address: str, interface: str) -> Iterator[None]:
    """Give the machine an address as another program would, with a TCP service that says who asks."""
    machine.ip(f"address add {address}/32 dev {interface}")
    with machine.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, PORT))
        listening.listen()

        def answer() -> None:
            while True:
                try:
                    connection, client = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(client[0].encode())

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            machine.ip(f"address del {address}/32 dev {interface}")


def asked(pod: Pod, address: str) -> str:
    """Return the client address that the service saw; empty if there is no answer within a second."""
    with pod.machine.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(1)
        try:
            sock.connect((address, PORT))
            return sock.recv(100).decode()
        except OSError:
            return ""


@pytest.mark.parametrize("interface", ["eth1", "lo"])
@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_the_master_answers_selected_pods_of_other_nodes(lab: Lab, kind: str, interface: str) -> None:
    master = lab.wait_settled(GATEWAY)
    pod = lab.nodes["w1"].pod(f"near-{kind}-{interface}", BACKEND, kind)
    with lab.capture() as capture, served(lab.nodes[master].machine, FOREIGN, interface):
        assert asked(pod, FOREIGN), "TCP"
        pod.machine.run("ping", "-n", "-c", "1", "-W", "2", FOREIGN)
        assert pod.request(SELECTED).address == VIRTUAL
        until(lambda: capture.packets(SELECTED), "the witness works")
        assert capture.sources(SELECTED) == {VIRTUAL}
        assert not capture.packets(PORT), "nothing of it leaves"
    pod.stop()


def test_the_next_master_answers_for_its_own(lab: Lab) -> None:
    master = lab.wait_settled(GATEWAY)
    following = next(name for name in ("g1", "g2") if name != master)
    pod = lab.nodes["w1"].pod("moved", BACKEND)
    with served(lab.nodes[master].machine, FOREIGN, "eth1"):
        assert asked(pod, FOREIGN)
    answer = json.loads(lab.nodes["w1"].egressctl("-o", "json", "handover", GATEWAY, "--to", following))
    assert answer["master"] == following
    with served(lab.nodes[following].machine, FOREIGN, "eth1"):
        until(lambda: asked(pod, FOREIGN), "the next master answers")
    pod.stop()


def test_a_node_that_is_no_master_answers_by_its_external_address(lab: Lab) -> None:
    """Its Node object names the address: selected pods reach it as they reach any other node, by no gateway."""
    master = lab.wait_settled(GATEWAY)
    standby = next(name for name in ("g1", "g2") if name != master)
    nodes = [documents.node(node.host) for node in lab.nodes.values()]
    named = next(node for node in nodes if node["metadata"]["name"] == standby)
    named["status"]["addresses"].append({"type": "ExternalIP", "address": EXTERNAL})
    pod, worker = lab.nodes["w1"].pod("outward", BACKEND), lab.nodes["w1"]
    # As the cluster's own routing leads to the node.
    worker.machine.ip(f"route add {EXTERNAL} via {lab.nodes[standby].host.ip}")
    lab.publish("nodes", nodes)
    try:
        with served(lab.nodes[standby].machine, EXTERNAL, "lo"):
            until(lambda: asked(pod, EXTERNAL) == worker.host.ip, "it answers, and sees the worker")
        assert pod.request(SELECTED).address == VIRTUAL
    finally:
        worker.machine.ip(f"route del {EXTERNAL}")
        lab.publish_nodes()
        pod.stop()


def test_the_virtual_address_itself_opens_nothing(lab: Lab) -> None:
    """A whitelisted address gives nobody a service of the node, a selected pod neither."""
    master = lab.wait_settled(GATEWAY)
    pod = lab.nodes["w1"].pod("inward", BACKEND)
    with lab.nodes[master].machine.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("0.0.0.0", PORT))
        listening.listen()
        with pod.machine.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(1.5)
            with pytest.raises(TimeoutError):
                sock.connect((VIRTUAL, PORT))
    pod.stop()
