"""Not one packet of a selected pod leaves by another address than a master's, whatever happens.

The witness is a capture at the outside service; only selected pods send to the port that is looked at.
``POD_STARTS`` in the environment gives more or fewer of the pods that send at once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from cni import contract

from ..lab import documents
from ..lab.capture import Capture
from ..lab.cnirun import CniError
from ..lab.lab import SELECTED, Lab
from ..lab.pod import Pod
from ..lab.silence import longest
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY

POD_STARTS = int(os.environ.get("POD_STARTS", "40"))
AT_ONCE = 4
"""Pods that start at the same time, as behind a runtime."""


@pytest.fixture
def master(lab: Lab) -> str:
    return lab.wait_settled(GATEWAY, 40)


@pytest.fixture
def capture(lab: Lab) -> Iterator[Capture]:
    with lab.capture() as witness:
        yield witness


@pytest.fixture
def pod(lab: Lab, master: str) -> Iterator[Pod]:
    started = lab.nodes["w1"].pod("talker", BACKEND)
    yield started
    started.stop()


def addresses(lab: Lab, *names: str) -> set[str]:
    return {lab.nodes[name].host.egress_ip for name in names}


def more(capture: Capture, count: int = 200) -> None:
    """Wait until so many more packets have arrived: traffic flows."""
    before = len(capture.packets(SELECTED))
    until(lambda: len(capture.packets(SELECTED)) >= before + count, f"{count} more packets")


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_pods_that_send_at_once(lab: Lab, master: str, capture: Capture, kind: str) -> None:
    node = lab.nodes["w1"]

    def life(number: int) -> None:
        started = node.pod(f"{kind}-{number}", BACKEND, kind)
        try:
            started.request(SELECTED)
        finally:
            started.stop()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(life, range(POD_STARTS)):
            """What one has raised is raised here."""
    assert len(capture.packets(SELECTED)) >= POD_STARTS
    assert capture.sources(SELECTED) == addresses(lab, master)


def test_the_workers_agent_is_killed(lab: Lab, master: str, pod: Pod, capture: Capture) -> None:
    agent = lab.nodes["w1"].agent
    with lab.probing(pod) as probing:
        more(capture)
        agent.kill()
        more(capture)
        agent.start()
        until(agent.answers, "the agent is back")
        more(capture)
        silence = longest(probing.stop())
    assert capture.sources(SELECTED) == addresses(lab, master)
    assert silence.lost == 0


def test_a_pod_starts_while_the_workers_agent_is_away(lab: Lab, master: str, capture: Capture) -> None:
    node = lab.nodes["w1"]
    alone = node.new_pod("alone", BACKEND)
    node.agent.kill()
    try:
        if lab.store == "files":
            alone.start()
            assert alone.request(SELECTED).address in addresses(lab, master)
        else:
            # No runtime tells the labels of a pod, and nobody else is there to ask.
            with pytest.raises(CniError) as refused:
                alone.start()
            assert refused.value.code == contract.TRY_AGAIN_LATER
    finally:
        node.agent.start()
        until(node.agent.answers, "the agent is back")
    if lab.store != "files":
        alone.start()
    try:
        assert alone.request(SELECTED).address in addresses(lab, master)
        assert capture.sources(SELECTED) == addresses(lab, master)
    finally:
        alone.stop()


def test_the_masters_agent_is_killed(lab: Lab, master: str, pod: Pod, capture: Capture) -> None:
    """Its keeper lives on: nothing moves."""
    agent = lab.nodes[master].agent
    with lab.probing(pod) as probing:
        more(capture)
        agent.kill()
        more(capture)
        agent.start()
        until(agent.answers, "the agent is back")
        more(capture)
        silence = longest(probing.stop())
    assert capture.sources(SELECTED) == addresses(lab, master)
    assert silence.lost == 0
    assert lab.wait_settled(GATEWAY) == master


def test_the_masters_node_is_cut_off(lab: Lab, master: str, pod: Pod, capture: Capture) -> None:
    with lab.probing(pod):
        more(capture)
        lab.cut(master)
        try:
            after = until(lambda: _another(lab, master), "a new master")
            until(lambda: pod.request(SELECTED, 0.5).address in addresses(lab, after), "traffic passes")
            more(capture)
        finally:
            lab.mend(master)
    assert capture.sources(SELECTED) == addresses(lab, master, after)


def _another(lab: Lab, master: str) -> str:
    now = lab.master(GATEWAY, asked="w1")
    return "" if now == master else now


def test_all_gateways_are_gone(lab: Lab, master: str, pod: Pod, capture: Capture) -> None:
    egress = [node.name for node in lab.nodes.values() if node.host.is_egress]
    with lab.probing(pod) as probing:
        more(capture)
        for name in egress:
            lab.cut(name)
        try:
            until(lambda: not lab.master(GATEWAY, asked="w1"), "no master is known")
            with pytest.raises(OSError):
                pod.request(SELECTED, 0.5)
        finally:
            for name in egress:
                lab.mend(name)
        until(lambda: pod.request(SELECTED, 0.5), "traffic passes again", 40)
        probes = probing.stop()
    assert longest(probes).lost > 0
    assert capture.sources(SELECTED) <= addresses(lab, *egress)


def test_a_policy_is_edited_while_traffic_flows(lab: Lab, master: str, pod: Pod, capture: Capture) -> None:
    """Every one of these policies selects the pod for this destination: there is no instant without."""
    gateway, policy = documents.basic_mode(lab.topology.egress_interface, GATEWAY)
    second = documents.policy("second", GATEWAY, BACKEND, ["203.0.113.10/32"])
    edits: tuple[list[str], ...] = (
        ["203.0.113.10/32"],
        ["203.0.113.8/29"],
        [],
        ["0.0.0.0/0"],
        ["203.0.113.0/24"],
    )
    with lab.probing(pod) as probing:
        more(capture)
        for destinations in edits:
            policy["spec"]["destinationCIDRs"] = destinations
            for documents_now in ([gateway, policy], [gateway, policy, second]):
                lab.publish("objects", documents_now)
                until(partial(_has_policies, lab, len(documents_now) - 1), "the edit is in the plan", 5)
                more(capture, 100)
        lab.publish("objects", documents.basic_mode(lab.topology.egress_interface, GATEWAY))
        more(capture)
        probes = probing.stop()
    assert capture.sources(SELECTED) == addresses(lab, master)
    assert longest(probes).lost == 0


def _has_policies(lab: Lab, count: int) -> bool:
    return len(lab.nodes["w1"].plan()["policies"]) == count


def test_the_workers_agent_is_stopped_while_the_master_changes(
    lab: Lab, master: str, pod: Pod, capture: Capture
) -> None:
    """The keeper alone leads the worker to the new master."""
    agent = lab.nodes["w1"].agent
    agent.signal(signal.SIGSTOP)
    try:
        with lab.probing(pod):
            more(capture)
            lab.cut(master)
            others = addresses(lab, *(n for n in ("g1", "g2", "g3") if n != master))
            until(lambda: pod.request(SELECTED, 0.5).address in others, "traffic passes")
    finally:
        agent.signal(signal.SIGCONT)
        lab.mend(master)
    assert capture.sources(SELECTED) <= addresses(lab, "g1", "g2", "g3")
