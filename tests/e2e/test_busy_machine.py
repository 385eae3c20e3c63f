"""Handovers and failovers on a machine whose processors have four times as much to do as they can."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from gateway_agent.lease.ipc import WAIT
from gateway_agent.lease.mastership.handover import QUEUE_TIMEOUT_NS
from gateway_agent.lease.voting.protocol import SECOND

from ..lab import documents, topology
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.pod import Pod
from ..lab.silence import longest
from ..lab.waiting import until
from .conftest import GATEWAY, settled

ADDRESS = "172.16.0.50"
MOST_SILENT_MS = 1000
"""Longest silence: the lease of 250 ms, the election, and the time that workers and kernel take on such a machine."""
SECONDS = 60
"""Seconds after which the load ends by itself."""


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    objects = documents.virtual_ip([ADDRESS], GATEWAY, connection_sync=True)
    with settled("test_busy_machine", topology.separate(workers=1), objects=objects) as made:
        yield made


@contextmanager
def busy() -> Iterator[None]:
    """Load each processor four times over, with processes as important as the agent."""
    workers = 4 * (os.cpu_count() or 1)
    load = subprocess.Popen(["stress-ng", "--quiet", "--cpu", str(workers), "--timeout", str(SECONDS)])
    try:
        yield
        assert load.poll() is None, "the load has ended before the test"
    finally:
        load.terminate()
        load.wait()


def processes(node: Node) -> list[int]:
    """Pids of agent, lease daemon and standby daemon."""

    def found() -> list[int]:
        lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in node.machine.pids()}
        spare = [pid for pid, line in lines.items() if WAIT.encode() in line.split(b"\0")]
        return [node.agent.pid, *node.agent.keeper_pids(), *spare]

    return until(lambda: pids if len(pids := found()) == 3 else None, "agent, keeper and spare run", 20)


def test_a_handover_that_an_operator_asks_for_loses_nothing(lab: Lab, pod: Pod, master: Node) -> None:
    wanted = next(name for name in ("g1", "g2", "g3") if name != master.name)
    with busy(), lab.probing(pod) as probing:
        lab.nodes["w1"].egressctl("handover", GATEWAY, "--to", wanted)
        probes = probing.stop()
    assert longest(probes).lost == 0


def test_a_drain_loses_nothing(lab: Lab, pod: Pod, master: Node) -> None:
    with busy(), lab.probing(pod) as probing:
        master.egressctl("drain")
        try:
            until(lambda: lab.master(GATEWAY, "w1") not in ("", master.name), "another node is master", 10)
            probes = probing.stop()
        finally:
            master.egressctl("undrain")
    assert longest(probes).lost == 0


def test_a_handover_does_not_wait_for_a_node_that_has_no_pods_of_the_address(
    lab: Lab, pod: Pod, master: Node
) -> None:
    """Its lease daemon is stopped just before: the worker's packets need not wait for its word."""
    taken = []
    for _ in range(3):
        before = lab.wait_settled(GATEWAY, 40)
        wanted, bystander = (name for name in ("g1", "g2", "g3") if name != before)
        (stopped,) = lab.nodes[bystander].agent.keeper_pids()
        os.kill(stopped, signal.SIGSTOP)
        began = time.monotonic()
        try:
            lab.nodes["w1"].agent.call("handover", gateway=GATEWAY, to=wanted)
            taken.append(time.monotonic() - began)
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert lab.master(GATEWAY, "w1") == wanted
    # Waiting for it takes at least so long each time, however fast the machine is.
    assert min(taken) < QUEUE_TIMEOUT_NS / SECOND


def test_a_failover_is_followed_at_once(lab: Lab, pod: Pod, master: Node) -> None:
    """By another node with the same address, on which packets pass; two owners never show on the wire."""
    with busy(), lab.capture() as capture, lab.probing(pod) as probing:
        until(lambda: len(capture.packets(SELECTED)) > 200, "probes arrive")
        lab.cut(master.name)
        try:
            until(lambda: lab.master(GATEWAY, "w1") not in ("", master.name), "another node is master", 10)
            seen = len(capture.packets(SELECTED))
            until(lambda: len(capture.packets(SELECTED)) > seen + 200, "probes go on arriving")
            probes = probing.stop()
        finally:
            lab.mend(master.name)
        assert capture.sources(SELECTED) == {ADDRESS}
    silence = longest(probes)
    assert silence.ended
    assert silence.milliseconds < MOST_SILENT_MS, silence


@pytest.mark.parametrize("loaded", [False, True], ids=["idle", "busy"])
def test_a_sigterm_to_agent_keeper_and_spare_at_once_is_a_planned_handover(
    lab: Lab, pod: Pod, master: Node, loaded: bool
) -> None:
    """As systemd ends a service, and a container runtime a pod."""
    pids = processes(master)
    with ExitStack() as stack:
        if loaded:
            stack.enter_context(busy())
        probing = stack.enter_context(lab.probing(pod))
        for pid in pids:
            # An agent that is quick has ended its standby daemon by then.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        until(lambda: lab.master(GATEWAY, "w1") not in ("", master.name), "another node is master", 10)
        probes = probing.stop()
    master.agent.stop()
    master.agent.start()
    silence = longest(probes)
    assert silence.lost == 0, silence


def test_a_restart_of_the_agent_moves_nothing(lab: Lab, pod: Pod, master: Node) -> None:
    with busy(), lab.probing(pod) as probing:
        master.agent.restart()
        probes = probing.stop()
    assert longest(probes).lost == 0
    assert lab.master(GATEWAY, "w1") == master.name
