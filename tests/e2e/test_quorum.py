"""Who may serve when nodes are cut off from each other, and what pods get when nobody may."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ..lab import documents, topology
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.pod import Pod
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

TAKEOVER_S = 5.0
"""Seconds until another node serves, on a busy machine; ``tests/bench`` measures the true time."""
ROUTER = "172.16.0.1"
"""The next hop of the egress nodes, toward the outside."""
UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH)


@pytest.fixture(scope="module")
def witnessed(plugin: Path) -> Iterator[Lab]:
    """Two egress nodes and two workers: three of the four are voters."""
    with settled("test_quorum_witnessed", topology.separate(workers=2, gateways=2)) as lab:
        yield lab


@pytest.fixture(scope="module")
def strict(plugin: Path) -> Iterator[Lab]:
    with settled("test_quorum_strict", topology.separate(workers=0, gateways=3)) as lab:
        yield lab


@contextmanager
def cut_off(lab: Lab, *names: str) -> Iterator[None]:
    """Their cables are pulled, and put back afterwards; then there is one master again."""
    for name in names:
        lab.cut(name)
    try:
        yield
    finally:
        for name in names:
            lab.mend(name)
    lab.wait_settled(GATEWAY, 40)


@contextmanager
def talking(node: Node, name: str = "talker") -> Iterator[Pod]:
    pod = node.pod(name, BACKEND)
    try:
        yield pod
    finally:
        pod.stop()


def egress(node: Node) -> dict[str, Any]:
    [found] = node.agent.status()["egressIPs"]
    return dict(found)


def others(lab: Lab, *names: str) -> list[str]:
    return [node.name for node in lab.nodes.values() if node.host.is_egress and node.name not in names]


def served_by(pod: Pod, node: Node) -> bool:
    return pod.request(SELECTED, 0.3).address == node.host.egress_ip


def masters(lab: Lab, gateways: list[str]) -> list[str]:
    """Return the nodes that hold the lease by their own word."""
    return [name for name in gateways if egress(lab.nodes[name])["state"] == "master"]


# -- two egress nodes and a witness


def test_the_witness_makes_a_majority(witnessed: Lab) -> None:
    lab, worker = witnessed, witnessed.nodes["w1"]
    master = lab.wait_settled(GATEWAY)
    [other] = others(lab, master)
    assert set(worker.agent.status()["voters"]) == {"g1", "g2", "w1"}
    with talking(worker) as pod, cut_off(lab, master):
        until(lambda: served_by(pod, lab.nodes[other]), "the other one serves", TAKEOVER_S)
        assert not egress(worker)["survivor"]
        until(
            lambda: egress(lab.nodes[master])["state"] == "standby",
            "the one that is cut off knows",
            TAKEOVER_S,
        )
        assert masters(lab, [master, other]) == [other]


def test_when_no_gateway_is_left_pods_get_an_error_at_once(witnessed: Lab) -> None:
    lab, worker = witnessed, witnessed.nodes["w1"]
    with talking(worker) as pod, cut_off(lab, "g1", "g2"):
        until(lambda: refused(pod), "pods are told", TAKEOVER_S)
        assert egress(worker)["master"] == ""
        assert egress(worker)["reason"]


def refused(pod: Pod) -> bool:
    """Return True if a new connection is answered by an ICMP error at once.

    The agent's status is ahead of the kernel: until the kernel is changed, the connection may be lost in the tunnel.
    """
    try:
        pod.request(SELECTED, 0.3)
    except OSError as error:
        return error.errno in UNREACHABLE
    return False


def test_direct_lets_pods_out_until_a_gateway_is_back(witnessed: Lab) -> None:
    lab, worker = witnessed, witnessed.nodes["w1"]
    interface = lab.topology.egress_interface
    gateway, policy = documents.basic_mode(interface, GATEWAY)
    gateway["spec"]["whenNoGateway"] = "Direct"
    lab.publish("objects", [gateway, policy])
    try:
        until(lambda: egress(worker)["whenNoGateway"] == "Direct", "status says so")
        with talking(worker) as pod, cut_off(lab, "g1", "g2"):
            until(
                lambda: pod.request(SELECTED, 0.3).address == worker.host.ip, "it leaves directly", TAKEOVER_S
            )
            explained = json.loads(worker.egressctl("explain", "talker", "203.0.113.10", "-o", "json"))
            assert explained["verdict"] == "direct"
            assert any("whenNoGateway: Direct" in step["reason"] for step in explained["steps"])
            for name in ("g1", "g2"):
                lab.mend(name)
            outside = {lab.nodes[name].host.egress_ip for name in ("g1", "g2")}
            until(lambda: pod.request(SELECTED, 0.3).address in outside, "it is steered again", 20)
    finally:
        lab.publish("objects", documents.basic_mode(interface, GATEWAY))


def _has_voters(node: Node, names: set[str]) -> bool:
    return set(node.agent.status()["voters"]) == names


def test_a_voter_that_is_dead_for_long_is_replaced(witnessed: Lab) -> None:
    lab, witness = witnessed, witnessed.nodes["w1"]
    lab.wait_settled(GATEWAY)
    before = lab.nodes["g1"].agent.status()["voterSet"]
    witness.die()
    try:
        for name in ("g1", "g2", "w2"):
            node = lab.nodes[name]
            until(partial(_has_voters, node, {"g1", "g2", "w2"}), name, 20)
            assert node.agent.status()["voterSet"] > before
    finally:
        witness.agent.start()
        until(witness.agent.answers, "the witness is back")
    lab.wait_settled(GATEWAY)


# -- two nodes in the whole inventory


def test_of_two_nodes_the_survivor_serves(plugin: Path) -> None:
    with settled("test_quorum_two", topology.separate(workers=0, gateways=2)) as lab:
        master = lab.wait_settled(GATEWAY)
        [other] = others(lab, master)
        with talking(lab.nodes[other]) as pod:
            with cut_off(lab, master):
                until(lambda: served_by(pod, lab.nodes[other]), "the survivor serves", 2 * TAKEOVER_S)
                assert egress(lab.nodes[other])["survivor"]
                assert "held without a majority" in lab.nodes[other].egressctl("status")
            until(lambda: not egress(lab.nodes[other])["survivor"], "a majority holds it again", TAKEOVER_S)
            after = lab.wait_settled(GATEWAY)
            assert masters(lab, ["g1", "g2"]) == [after]
            until(lambda: served_by(pod, lab.nodes[after]), "traffic passes", TAKEOVER_S)


# -- three nodes, two of them cut off


def test_strict_without_a_majority_no_node_serves(strict: Lab) -> None:
    left = strict.wait_settled(GATEWAY)
    with talking(strict.nodes[left]) as pod:
        until(lambda: served_by(pod, strict.nodes[left]), "traffic passes", TAKEOVER_S)
        with cut_off(strict, *others(strict, left)):
            until(lambda: egress(strict.nodes[left])["state"] == "standby", "it lets go", TAKEOVER_S)
            until(lambda: not egress(strict.nodes[left])["master"], "and knows of no other", TAKEOVER_S)
            until(lambda: refused(pod), "its own pods are told", TAKEOVER_S)
            status = strict.nodes[left].agent.status()
            assert status["isolated"]
            assert "majority" in egress(strict.nodes[left])["reason"]
        after = strict.wait_settled(GATEWAY)
        until(lambda: served_by(pod, strict.nodes[after]), "traffic passes again", TAKEOVER_S)


def test_availability_first_the_one_that_is_left_serves(plugin: Path) -> None:
    options = {"quorum": "AvailabilityFirst"}
    with settled("test_quorum_first", topology.separate(workers=0, gateways=3), options) as lab:
        master = lab.wait_settled(GATEWAY)
        left = others(lab, master)[0]
        with talking(lab.nodes[left]) as pod:
            with cut_off(lab, *others(lab, left)):
                until(lambda: served_by(pod, lab.nodes[left]), "it serves after a while", 30)
                assert egress(lab.nodes[left])["survivor"]
            after = lab.wait_settled(GATEWAY)
            assert masters(lab, ["g1", "g2", "g3"]) == [after]
            until(lambda: served_by(pod, lab.nodes[after]), "traffic passes", TAKEOVER_S)


# -- an upstream that stops answering


def test_a_silent_upstream_moves_the_master(plugin: Path) -> None:
    options = {"health": {"upstream": [ROUTER], "interval": "100ms", "misses": 3}}
    with settled("test_quorum_upstream", topology.separate(workers=1, gateways=2), options) as lab:
        master = lab.wait_settled(GATEWAY)
        [other] = others(lab, master)
        deaf = (
            "table inet lab_deaf {\n\tchain in {\n\t\ttype filter hook input priority 0;\n"
            "\t\ticmp type echo-reply drop\n\t}\n}\n"
        )
        with talking(lab.nodes["w1"]) as pod:
            lab.nodes[master].machine.run("nft", "-f", "-", text=deaf)
            until(lambda: served_by(pod, lab.nodes[other]), "the other one serves", TAKEOVER_S)
            assert egress(lab.nodes[master])["reason"] == f"upstream {ROUTER} does not answer"
            lab.nodes[master].machine.run("nft", "delete", "table", "inet", "lab_deaf")
            assert lab.wait_settled(GATEWAY) == other, "who is ready again takes nothing back"
