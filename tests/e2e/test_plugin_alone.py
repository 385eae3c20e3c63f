"""The plugin's calls without an agent, and with one that hangs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cni import contract

from ..lab import topology
from ..lab.capture import Capture
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled
from .plugin_node import attached, capture, egress_ip, node, refused, wipe

__all__ = ["capture", "node"]


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with settled("test_plugin_alone", topology.separate(workers=1, gateways=2)) as made:
        yield made


@pytest.mark.parametrize("wiped", [False, True], ids=["as it was", "wiped"])
@pytest.mark.parametrize("keeper", [False, True], ids=["no keeper", "keeper"])
def test_alone_a_selected_pod_leaves_by_the_master(
    lab: Lab, node: Node, capture: Capture, keeper: bool, wiped: bool
) -> None:
    served = egress_ip(lab)
    node.agent.kill()
    if not keeper:
        for pid in node.agent.keeper_pids():
            os.kill(pid, signal.SIGKILL)
    if wiped:
        wipe(node)
    pod = node.pod("alone", BACKEND)
    assert pod.request(SELECTED).address == served
    assert capture.sources(SELECTED) == {served}
    node.agent.start()
    until(lambda: attached(node) == {"alone": GATEWAY}, "the agent has adopted it")
    pod.check()
    assert pod.request(SELECTED).address == served


def test_alone_a_pod_with_unknown_labels(lab: Lab, node: Node) -> None:
    node.agent.kill()
    error = refused(lambda: node.pod("unknown"))
    assert error.code == contract.TRY_AGAIN_LATER
    assert "labels" in error.message
    network = node.network("bridge")
    lenient = replace(
        network, plugins=(network.plugins[0], {**network.plugins[1], "failurePolicy": "Ignore"})
    )
    pod = node.pod("lenient", network=lenient)
    metadata = {"name": "lenient", "namespace": "prod", "labels": BACKEND}
    lab.publish("pods", [{"apiVersion": "v1", "kind": "Pod", "metadata": metadata}])
    try:
        node.agent.start()
        until(lambda: attached(node).get("lenient") == GATEWAY, "the agent tags it on its return")
        assert pod.request(SELECTED).address == egress_ip(lab)
    finally:
        lab.publish("pods", [])


def test_alone_a_del_is_honoured_on_return(node: Node) -> None:
    pod = node.pod("deleted", BACKEND)
    node.agent.kill()
    node.runtime.delete(pod.network, pod.attachment)
    node.agent.start()
    until(node.agent.answers, "the agent is back")
    assert attached(node) == {}


def test_a_hung_agent_delays_a_pod_no_longer_than_the_deadline(lab: Lab, node: Node) -> None:
    served = egress_ip(lab)
    node.agent.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        pod = node.pod("patient", BACKEND)
        assert time.monotonic() - began < contract.DEADLINE_S + 2.0
        assert pod.request(SELECTED).address == served
    finally:
        node.agent.signal(signal.SIGCONT)
    until(lambda: attached(node) == {"patient": GATEWAY}, "the agent has adopted it")
