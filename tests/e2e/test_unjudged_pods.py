"""Pods that start beside the plugin, in a cluster: the guard drops what they send outside until an agent judges them.

The witness is a capture at the outside service.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cni.kernel import ids
from cni.kernel.netlink import links

from ..lab import documents, topology
from ..lab.capture import Capture
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.pod import Pod
from ..lab.silence import longest
from ..lab.topology import VIRTUAL
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled
from .metric_values import total

OTHER = {"app": "other"}
KINDS = ("bridge", "ptp")


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    objects = documents.virtual_ip([VIRTUAL], GATEWAY)
    with settled(
        "test_unjudged_pods", topology.separate(workers=1), objects=objects, store="kubernetes"
    ) as made:
        yield made


@pytest.fixture
def node(lab: Lab) -> Iterator[Node]:
    node = lab.nodes["w1"]
    if not node.agent.running:
        node.agent.start()
    until(node.agent.answers, "the agent answers")
    until(lambda: guarded(node), "the guard is set")
    yield node
    for pod in node.pods.values():
        pod.stop()
    node.pods.clear()


@pytest.fixture
def capture(lab: Lab) -> Iterator[Capture]:
    with lab.capture() as witness:
        yield witness


def guarded(node: Node) -> bool:
    return node.machine.run("nft", "list", "tables").count(ids.NFT_GUARD) == 2


def beside(node: Node, name: str, kind: str, labels: dict[str, str]) -> Pod:
    """Return a pod that was started without our plugin in the list of the network."""
    pod = node.new_pod(name, labels, kind)
    pod.network = replace(pod.network, plugins=pod.network.plugins[:1])
    pod.start()
    return pod


def speak(pod: Pod) -> None:
    """Send to the outside by two protocols; answers are not expected."""
    with contextlib.suppress(OSError):
        pod.datagram(SELECTED, seconds=0.3)
    with contextlib.suppress(OSError):
        pod.request(SELECTED, seconds=0.3)


def judged(lab: Lab, pod: Pod) -> None:
    """Let the API name the pod's address, as its kubelet does, and wait for the agent."""
    assert lab.cluster is not None
    lab.cluster.runs("prod", pod.name, pod.address)
    node = lab.nodes["w1"]
    until(lambda: group(node, pod.host_interface) != 0, "the agent has judged it")


def group(node: Node, interface: str) -> int | None:
    return node.machine.inside(lambda: links.tag_of(interface))


def noted(node: Node, pod: Pod) -> bool | None:
    """Return how status has noted the pod: True if its packets were held; None if it was not."""
    latest = node.agent.status()["startedBeside"]["latest"]
    return next((one["held"] for one in latest if one["name"] == pod.name), None)


def reported(lab: Lab) -> str:
    assert lab.cluster is not None
    return "\n".join(event["message"] for event in lab.cluster.events("PodBesidePlugin"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_selected_pod_sends_nothing_by_another_address(
    lab: Lab, node: Node, capture: Capture, kind: str
) -> None:
    counted = total(node, "pods_beside_plugin_total")
    pod = beside(node, f"beside-{kind}", kind, BACKEND)
    speak(pod)
    assert capture.sources(SELECTED) == set()
    judged(lab, pod)
    assert pod.request(SELECTED).address == VIRTUAL
    assert capture.sources(SELECTED) == {VIRTUAL}
    assert noted(node, pod) is not None
    assert total(node, "pods_beside_plugin_total") == counted + 1
    until(lambda: f"prod/{pod.name} started beside" in reported(lab), "the Event of the node")


@pytest.mark.parametrize("kind", KINDS)
def test_a_pod_that_no_policy_selects_waits_and_then_passes(
    lab: Lab, node: Node, capture: Capture, kind: str
) -> None:
    pod = beside(node, f"other-{kind}", kind, OTHER)
    speak(pod)
    assert capture.sources(SELECTED) == set()
    judged(lab, pod)
    assert pod.request(SELECTED).address == node.host.internal_ip


@pytest.mark.parametrize("kind", KINDS)
def test_a_pod_behind_the_plugin_waits_for_nothing(node: Node, kind: str) -> None:
    pod = node.pod(f"behind-{kind}", OTHER, kind)
    assert group(node, pod.host_interface) == ids.GROUP_UNSELECTED
    assert pod.request(SELECTED).address == node.host.internal_ip


def test_the_guard_stays_without_an_agent(node: Node, capture: Capture) -> None:
    for number in (signal.SIGKILL, signal.SIGTERM):
        node.agent.end(number)
        speak(beside(node, f"alone-{number}", "bridge", BACKEND))
        assert capture.sources(SELECTED) == set()
        node.agent.start()
        until(node.agent.answers, "the agent is back")


def test_an_agent_that_finds_the_guard_knows_that_packets_were_held(lab: Lab, node: Node) -> None:
    node.agent.kill()
    pod = beside(node, "held", "ptp", BACKEND)
    speak(pod)
    node.agent.start()
    until(node.agent.answers, "the agent is back")
    judged(lab, pod)
    assert noted(node, pod) is True


def test_a_guard_that_another_program_removes_comes_back(node: Node) -> None:
    node.machine.run("nft", "delete", "table", "inet", ids.NFT_GUARD)
    until(lambda: guarded(node), "the guard is back")


def test_before_any_agent_the_guard_is_set_by_its_file(node: Node, capture: Capture) -> None:
    """Play a reboot: the unit loads the rules, and no other table is there."""
    node.agent.kill()
    rules = node.agent.config.parent / "state" / "guard.nft"
    node.machine.run("nft", "flush", "ruleset")
    node.machine.run("nft", "-f", str(rules))
    speak(beside(node, "early", "ptp", BACKEND))
    assert capture.sources(SELECTED) == set()


def clean(node: Node) -> None:
    node.agent.stop()
    until(lambda: not node.agent.keeper_pids(), "the lease daemon has ended")
    node.egressctl("clean")


@pytest.mark.parametrize("kind", KINDS)
def test_pods_that_ran_before_the_first_agent_are_cut_off_at_no_time(lab: Lab, node: Node, kind: str) -> None:
    clean(node)
    assert lab.cluster is not None
    pod = beside(node, f"before-{kind}", kind, OTHER)
    lab.cluster.runs("prod", pod.name, pod.address)
    with lab.probing(pod, SELECTED) as probing:
        node.agent.start()
        until(lambda: guarded(node), "the guard is set")
        assert group(node, pod.host_interface) == ids.GROUP_UNSELECTED
        assert longest(probing.stop()).lost == 0
    assert noted(node, pod) is False


def test_nothing_is_left_after_its_end(lab: Lab, node: Node) -> None:
    pod = node.pod("left", OTHER)
    clean(node)
    assert ids.NFT_GUARD not in node.machine.run("nft", "list", "tables")
    assert not (node.agent.config.parent / "state" / "guard.nft").exists()
    assert group(node, pod.host_interface) == 0
    late = beside(node, "late", "bridge", OTHER)
    assert late.request(SELECTED).address == node.host.internal_ip


def test_the_owner_switches_it_off(node: Node) -> None:
    text = node.agent.config.read_text()
    node.agent.config.write_text(f"{text}guard: Off\n")
    try:
        node.agent.restart()
        until(lambda: not guarded(node), "the guard is gone")
        pod = beside(node, "free", "bridge", OTHER)
        assert pod.request(SELECTED).address == node.host.internal_ip
    finally:
        node.agent.config.write_text(text)
        node.agent.restart()
