"""Which pod leaves by which address, while nothing fails."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from ..lab import documents
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.pod import Pod
from ..lab.topology import OUTSIDE, Host
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY

OTHER_OUTSIDE = "203.0.113.7"
EDIT_S = 1.0
"""Seconds within which an edit of the store takes effect on running pods."""


def master(lab: Lab) -> Host:
    return lab.nodes[lab.wait_settled(GATEWAY)].host


def objects(lab: Lab) -> list[documents.Document]:
    return documents.basic_mode(lab.topology.egress_interface, GATEWAY)


@contextmanager
def running(
    node: Node, name: str, labels: dict[str, str] | None = None, kind: str = "bridge"
) -> Iterator[Pod]:
    pod = node.pod(name, labels, kind)
    try:
        yield pod
    finally:
        pod.stop()


@contextmanager
def published(lab: Lab, name: str, content: list[documents.Document]) -> Iterator[None]:
    """Yield a file of the store, and the lab's own policy again afterwards."""
    lab.publish(name, content)
    try:
        yield
    finally:
        lab.publish(name, objects(lab) if name == "objects" else [])


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_a_selected_pod_leaves_by_the_master(lab: Lab, kind: str) -> None:
    with running(lab.nodes["w1"], f"selected-{kind}", BACKEND, kind=kind) as pod:
        assert pod.request(SELECTED).address == master(lab).egress_ip
        assert pod.datagram(SELECTED).address == master(lab).egress_ip
        pod.check()


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_a_pod_that_is_not_selected_leaves_by_its_worker(lab: Lab, kind: str) -> None:
    with running(lab.nodes["w1"], f"other-{kind}", {"app": "other"}, kind=kind) as pod:
        assert pod.request(SELECTED).address == lab.nodes["w1"].host.ip


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_egress_nodes_run_selected_pods_too(lab: Lab, kind: str) -> None:
    """On the master itself there is no tunnel; on a standby there is one."""
    for node in [node for node in lab.nodes.values() if node.host.is_egress]:
        with running(node, f"on-{node.name}-{kind}", BACKEND, kind=kind) as pod:
            assert pod.request(SELECTED).address == master(lab).egress_ip, node.name


def test_pods_of_two_workers_with_the_same_address(lab: Lab) -> None:
    w1, w2 = lab.nodes["w1"], lab.nodes["w2"]
    first = w1.pod("twin-1", BACKEND, network=w1.network("ptp", "10.245.200.0/24"))
    second = w2.pod("twin-2", BACKEND, network=w2.network("ptp", "10.245.200.0/24"))
    try:
        assert first.address == second.address
        held = [pod.connect(SELECTED) for pod in (first, second)]
        for number, connection in enumerate(held):
            assert connection.answer.address == master(lab).egress_ip
            assert connection.echo(f"pod {number}") == f"pod {number}"
        for connection in held:
            connection.close()
    finally:
        first.stop()
        second.stop()


@pytest.fixture
def other_outside(lab: Lab) -> Iterator[str]:
    """Yield a second address of the outside machine."""
    lab.machines["outside"].ip(f"address add {OTHER_OUTSIDE}/24 dev eth0")
    yield OTHER_OUTSIDE
    lab.machines["outside"].ip(f"address del {OTHER_OUTSIDE}/24 dev eth0")


def test_excluded_destinations_leave_by_the_worker(lab: Lab, other_outside: str) -> None:
    gateway, policy = objects(lab)
    policy["spec"]["excludedCIDRs"] = [f"{other_outside}/32"]
    with running(lab.nodes["w1"], "excluded", BACKEND) as pod, published(lab, "objects", [gateway, policy]):
        worker = lab.nodes["w1"].host.ip
        until(
            lambda: pod.request(SELECTED, address=other_outside).address == worker,
            "the exclusion counts",
            EDIT_S,
        )
        assert pod.request(SELECTED).address == master(lab).egress_ip


def test_two_gateways_by_destination(lab: Lab, other_outside: str) -> None:
    """A pod that two policies select: the longer prefix wins, each destination has its own gateway."""
    labels = {"group": "second"}
    g3 = replace(lab.nodes["g3"].host, labels=labels)
    others = [node.host for node in lab.nodes.values() if node.name != "g3"]
    second = [
        documents.gateway("second", lab.topology.egress_interface, labels),
        documents.policy("backend-to-second", "second", BACKEND, [f"{other_outside}/32"]),
    ]
    lab.publish("nodes", [documents.node(host) for host in (*others, g3)])
    try:
        with running(lab.nodes["w1"], "both", BACKEND) as pod, published(lab, "second", second):
            until(lambda: lab.master("second") == "g3", "g3 is master of the second gateway", 20)
            until(lambda: lab.master(GATEWAY) in ("g1", "g2"), "the first gateway has its own master", 20)
            first = lab.nodes[lab.master(GATEWAY)].host.egress_ip
            until(
                lambda: pod.request(SELECTED, address=other_outside).address == g3.egress_ip,
                "the /32 leaves by the second gateway",
            )
            assert pod.request(SELECTED).address == first
    finally:
        lab.publish_nodes()
        lab.wait_settled(GATEWAY, 40)


@pytest.mark.parametrize("netfilter", ["0", "1"])
@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_an_inbound_client_is_answered_by_the_way_it_came(lab: Lab, kind: str, netfilter: str) -> None:
    """A port of the node that DNAT leads to a selected pod, as a NodePort does."""
    node = lab.nodes["w1"]
    with running(node, f"server-{kind}-{netfilter}", BACKEND, kind=kind) as pod:
        _bridge_netfilter(lab, netfilter)
        lab.machines[pod.name] = pod.machine
        lab.serve(pod.name, 8443)
        node.machine.run(
            *("nft", "-f", "-"),
            text="add table ip lab_nodeport\n"
            "add chain ip lab_nodeport in { type nat hook prerouting priority dstnat; }\n"
            f"add rule ip lab_nodeport in tcp dport 30080 dnat to {pod.address}:8443\n",
        )
        try:
            with lab.machines["outside"].socket(socket.AF_INET, socket.SOCK_STREAM) as client:
                client.settimeout(2)
                client.connect((node.host.ip, 30080))
                assert client.makefile("r").readline() == f"welcome {OUTSIDE}\n"
            assert pod.request(SELECTED).address == master(lab).egress_ip
        finally:
            node.machine.run("nft", "delete", "table", "ip", "lab_nodeport")
            del lab.machines[pod.name]


def _bridge_netfilter(lab: Lab, value: str) -> None:
    try:
        lab.nodes["w1"].machine.sysctl({"net/bridge/bridge-nf-call-iptables": value})
    except FileNotFoundError:
        if value == "1":
            pytest.skip("this kernel has no br_netfilter")


def test_edits_count_for_running_pods_within_a_second(lab: Lab) -> None:
    worker, served = lab.nodes["w1"].host.ip, master(lab).egress_ip
    gateway, policy = objects(lab)
    with running(lab.nodes["w1"], "edited", BACKEND) as pod:
        assert pod.request(SELECTED).address == served
        with published(lab, "objects", [gateway]):
            until(lambda: pod.request(SELECTED).address == worker, "the policy is gone", EDIT_S)
        until(lambda: pod.request(SELECTED).address == served, "the policy is back", EDIT_S)
        policy["spec"]["selectors"] = [{"podSelector": {"matchLabels": {"app": "somebody"}}}]
        with published(lab, "objects", [gateway, policy]):
            until(lambda: pod.request(SELECTED).address == worker, "the policy selects others", EDIT_S)
        until(lambda: pod.request(SELECTED).address == served, "the policy selects the pod again", EDIT_S)


def test_labels_of_a_running_pod_may_change(lab: Lab) -> None:
    """A pod whose CNI call told no labels has those of its ``Pod`` document."""
    metadata = {"name": "relabelled", "namespace": "prod", "labels": {"app": "other"}}
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
    lab.publish("pods", [document])
    try:
        until(lambda: lab.nodes["w1"].agent.answers(), "the agent is there")
        with running(lab.nodes["w1"], "relabelled") as pod:
            assert pod.request(SELECTED).address == lab.nodes["w1"].host.ip
            lab.publish("pods", [{**document, "metadata": {**metadata, "labels": BACKEND}}])
            served = master(lab).egress_ip
            until(lambda: pod.request(SELECTED).address == served, "the new labels count", EDIT_S)
    finally:
        lab.publish("pods", [])


def test_status_and_pods_as_egressctl_shows_them(lab: Lab) -> None:
    with running(lab.nodes["w1"], "shown", BACKEND) as pod:
        status = json.loads(lab.nodes["w1"].egressctl("-o", "json", "status"))
        [egress] = status["egressIPs"]
        assert status["node"] == "w1"
        assert (egress["gateway"], egress["master"]) == (GATEWAY, master(lab).name)
        assert egress["ip"] in ("", master(lab).egress_ip), "the address that the outside sees, or none"
        assert {member["node"] for member in status["members"] if member["ready"]} == {"g1", "g2", "g3"}
        [shown] = [
            row
            for row in json.loads(lab.nodes["w1"].egressctl("-o", "json", "pods"))
            if row["name"] == pod.name
        ]
        assert (shown["namespace"], shown["gateway"], shown["via"]) == ("prod", GATEWAY, master(lab).name)
