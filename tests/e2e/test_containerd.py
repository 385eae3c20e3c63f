"""A real containerd starts and stops pods through a conflist with our plugin, as a kubelet tells it to.

Another program rewrites the configuration, again and again, without our entry. The installer puts it back within
milliseconds, and some pods start in between. The guard drops what these send outside until the agent has judged them.
``--conflist-rewrites`` asks for more rewrites.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import psutil
import pytest

from gateway_agent.ctl import runtime_report

from ..lab import documents, topology
from ..lab.cri import boot
from ..lab.cri.conflist import chained, installer, rewriting
from ..lab.cri.containerd import Containerd
from ..lab.cri.sandbox import Sandbox
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.topology import VIRTUAL
from ..lab.waiting import PATIENCE_S, until
from .conftest import BACKEND, GATEWAY, settled

AT_ONCE = 50
BESIDE_REWRITES = 3
"""Pods at once while the configuration is rewritten."""
AT_BOOT = 3
"""Pods that start as soon as the runtime does."""
MANY_BOOTS = 20
"""Boots of which one at least starts a pod before our entry is there."""
OTHER = {"app": "other"}


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    objects = documents.virtual_ip([VIRTUAL], GATEWAY)
    machines = topology.separate(workers=1, gateways=2)
    with settled("test_containerd", machines, objects=objects, store="kubernetes") as made:
        yield made


@pytest.fixture(scope="module")
def node(lab: Lab) -> Node:
    return lab.nodes["w1"]


@pytest.fixture(scope="module")
def containerd(node: Node) -> Iterator[Containerd]:
    runtime = Containerd(node.machine, node.directory / "cri")
    runtime.use(node.network("bridge"))
    runtime.start()
    try:
        yield runtime
        for sandbox in runtime.sandboxes():
            runtime.stop(sandbox)
    finally:
        runtime.end()


def attached(node: Node) -> set[str]:
    return {row["name"] for row in node.agent.call("pods")["pods"]}


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_selected_and_not(node: Node, containerd: Containerd, kind: str) -> None:
    containerd.use(node.network(kind))
    selected, other = (
        Sandbox(node, containerd, f"{name}-{kind}", labels)
        for name, labels in (("yes", BACKEND), ("no", OTHER))
    )
    assert selected.request(SELECTED).address == VIRTUAL
    assert other.request(SELECTED).address == node.host.ip
    assert attached(node) >= {selected.name, other.name}
    for sandbox in (selected, other):
        sandbox.stop()
    assert attached(node) == set()


def test_fifty_at_once(lab: Lab, node: Node, containerd: Containerd) -> None:
    def life(number: int) -> str:
        sandbox = Sandbox(node, containerd, f"crowd-{number}", BACKEND)
        try:
            return sandbox.request(SELECTED, seconds=10).address
        finally:
            sandbox.stop()

    with lab.capture() as capture, ThreadPoolExecutor(AT_ONCE) as pool:
        assert set(pool.map(life, range(AT_ONCE))) == {VIRTUAL}
        assert capture.sources(SELECTED) == {VIRTUAL}
    assert attached(node) == set()
    assert containerd.sandboxes() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_containerd_is_started_anew(node: Node, containerd: Containerd, number: signal.Signals) -> None:
    sandbox = Sandbox(node, containerd, "lasting", BACKEND)
    containerd.end(number)
    assert sandbox.request(SELECTED).address == VIRTUAL
    containerd.start()
    assert sandbox.request(SELECTED).address == VIRTUAL
    sandbox.stop()
    assert attached(node) == set()


def test_what_a_killed_runtime_has_left(node: Node, containerd: Containerd) -> None:
    """Everything of a pod dies without a DEL; it comes later, when nothing of the pod is left."""
    sandbox = Sandbox(node, containerd, "dying", BACKEND)
    containerd.end(signal.SIGKILL)
    shim = psutil.Process(sandbox.pid).ppid()
    for pid in (shim, sandbox.pid):
        os.kill(pid, signal.SIGKILL)
    sandbox.forget()
    containerd.start()
    containerd.stop(sandbox.id)
    assert attached(node) == set()
    until(lambda: sandbox.id not in containerd.sandboxes(), "containerd has forgotten it")
    sandbox.cluster.remove("prod", sandbox.name)


def test_without_the_agent_a_pod_that_may_be_selected_waits(node: Node, containerd: Containerd) -> None:
    node.agent.kill()
    try:
        with pytest.raises(grpc.RpcError, match="egress-gateway"):
            Sandbox(node, containerd, "early", BACKEND)
    finally:
        node.agent.start()
        until(node.agent.answers, "the agent is back")
    assert node.cluster is not None
    node.cluster.remove("prod", "early")
    sandbox = Sandbox(node, containerd, "early", BACKEND)
    assert sandbox.request(SELECTED).address == VIRTUAL
    sandbox.stop()


def life(sandbox: Sandbox, seconds: float = PATIENCE_S) -> str:
    """Return the address that the outside sees of a pod, which sends from its start on.

    As long as its node knows no master, it is answered unreachable, and sends again.
    """
    try:
        # As a kubelet does once the sandbox runs.
        sandbox.cluster.runs("prod", sandbox.name, sandbox.address)
        what = f"an answer to {sandbox.name}"
        return until(lambda: sandbox.request(SELECTED, seconds=20).address, what, seconds)
    finally:
        sandbox.stop()


def test_no_packet_by_another_address_while_the_configuration_is_rewritten(
    lab: Lab, node: Node, containerd: Containerd, request: pytest.FixtureRequest
) -> None:
    times = request.config.getoption("--conflist-rewrites")
    seen: list[str] = []
    with lab.capture() as capture:
        with (
            installer(node, containerd),
            rewriting(node, containerd, times) as done,
            ThreadPoolExecutor(BESIDE_REWRITES) as pool,
        ):
            while not done.is_set():
                names = [f"early-{len(seen) + place}" for place in range(BESIDE_REWRITES)]
                seen += pool.map(lambda name: life(Sandbox(node, containerd, name, BACKEND)), names)
            until(lambda: chained(containerd), "our entry is back")
        assert set(seen) == {VIRTUAL}
        assert capture.sources(SELECTED) == {VIRTUAL}
    beside = node.agent.status()["startedBeside"]
    assert beside["held"] + beside["loose"] > 0, f"none of {len(seen)} pods started beside the plugin"


def test_no_packet_by_another_address_at_a_boot(
    lab: Lab, node: Node, containerd: Containerd, request: pytest.FixtureRequest
) -> None:
    """With ``-s``, each boot is reported when it is over."""
    boots, first = (request.config.getoption(name) for name in ("--boots", "--boots-seed"))
    beside = 0

    def lived(name: str) -> str:
        return life(boot.started(node, containerd, name, BACKEND), boot.PATIENCE_S)

    def pods(seed: int) -> set[str]:
        with ThreadPoolExecutor(AT_BOOT) as pool:
            return set(pool.map(lived, [f"boot-{seed}-{place}" for place in range(AT_BOOT)]))

    for seed in range(first, first + boots):
        with lab.capture() as capture:
            seen = boot.boot(node, containerd, random.Random(seed), partial(pods, seed))
            assert seen == {VIRTUAL}, f"boot {seed}"
            assert capture.sources(SELECTED) == {VIRTUAL}, f"boot {seed}"
        counted = node.agent.status()["startedBeside"]
        beside += counted["held"] + counted["loose"]
        print(f"boot {seed}: {AT_BOOT} pods got through; beside the plugin so far: {beside}", flush=True)
    assert beside or boots < MANY_BOOTS, f"no pod of {boots} boots started beside the plugin"


def test_a_runtime_that_has_not_loaded_the_entry_is_found(node: Node, containerd: Containerd) -> None:
    """The runtime watches the directory, and no other one that takes its place; its own error does not say so."""
    network, directory = node.network("bridge"), containerd.directory / "net.d"

    def said() -> runtime_report.Said:
        found = runtime_report.examine(containerd.socket)
        assert found is not None
        return found

    containerd.use(network)
    until(lambda: not said().wrong, "containerd has loaded the entry")
    assert said().judged
    containerd.use(replace(network, plugins=network.plugins[:1]))
    until(lambda: said().wrong, "containerd has loaded a chain without the entry")
    assert "egress-gateway-cni install" in said().hint
    directory.rename(directory.with_name("old"))
    # It reads the place once more; a directory that is there by then would pass for the one that it watches.
    until(lambda: "no pod starts" in said().found, "containerd has lost the directory")
    shutil.copytree(directory.with_name("old"), directory)
    containerd.use(network)
    assert f"{directory / '10-net.conflist'} has the entry" in said().hint
    containerd.end()
    containerd.start()
    assert (said().judged, said().wrong) == (True, False)
