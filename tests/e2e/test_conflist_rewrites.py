"""A real containerd starts pods while another program rewrites the CNI configuration, again and again, without ours.

The installer puts our entry back within milliseconds, and some pods start in between. The guard drops what these send
outside until the agent has judged them. ``--conflist-rewrites`` asks for more rewrites.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ..lab import documents, topology
from ..lab.cnirun import OUR_PLUGINS
from ..lab.cri.containerd import Containerd
from ..lab.cri.sandbox import Sandbox
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.topology import VIRTUAL
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

AT_ONCE = 3
GAPS_S = (0.0, 0.05)
"""Seconds between two rewrites: some last shorter than the start of a pod, some longer."""


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    objects = documents.virtual_ip([VIRTUAL], GATEWAY)
    machines = topology.separate(workers=1, gateways=2)
    with settled("test_conflist_rewrites", machines, objects=objects, store="kubernetes") as made:
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


@contextmanager
def installer(node: Node, containerd: Containerd) -> Iterator[None]:
    """Run the installer that restores our entry."""
    program = [sys.executable, "-m", "gateway_agent.cni_install.installer", "install", "--watch"]
    directory = containerd.directory
    options = ("--plugin", OUR_PLUGINS / "egress-gateway", "--bin-dir", directory / "bin",
               "--conf-dir", directory / "net.d", "--report", directory / "report.json",
               "--socket", node.agent.socket)  # fmt: skip
    with (directory / "installer.log").open("wb") as log:
        process = subprocess.Popen([*program, *map(str, options)], stdout=log, stderr=log)
    try:
        yield
        assert process.poll() is None, (directory / "installer.log").read_text()
    finally:
        process.kill()
        process.wait()


@contextmanager
def rewriting(node: Node, containerd: Containerd, times: int) -> Iterator[threading.Event]:
    """Rewrite the configuration as a main network plugin does. Yield the event of its end."""
    network, done, rng = node.network("bridge"), threading.Event(), random.Random(times)
    alone = replace(network, plugins=network.plugins[:1])

    def work() -> None:
        for _ in range(times):
            containerd.use(alone)
            time.sleep(rng.uniform(*GAPS_S))
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield done
    finally:
        thread.join()


def life(node: Node, containerd: Containerd, name: str) -> str:
    """Return the address that the outside sees of a pod, which sends from its start on."""
    sandbox = Sandbox(node, containerd, name, BACKEND)
    try:
        # As a kubelet does once the sandbox runs.
        sandbox.cluster.runs("prod", name, sandbox.address)
        return sandbox.request(SELECTED, seconds=20).address
    finally:
        sandbox.stop()


def test_no_packet_by_another_address(
    lab: Lab, node: Node, containerd: Containerd, request: pytest.FixtureRequest
) -> None:
    times = request.config.getoption("--conflist-rewrites")
    seen: list[str] = []
    with lab.capture() as capture:
        with (
            installer(node, containerd),
            rewriting(node, containerd, times) as done,
            ThreadPoolExecutor(AT_ONCE) as pool,
        ):
            number = 0
            while not done.is_set():
                names = [f"early-{number + place}" for place in range(AT_ONCE)]
                seen += pool.map(lambda name: life(node, containerd, name), names)
                number += AT_ONCE
            until(lambda: chained(containerd), "our entry is back")
        assert set(seen) == {VIRTUAL}
        assert capture.sources(SELECTED) == {VIRTUAL}
    beside = node.agent.status()["startedBeside"]
    assert beside["held"] + beside["loose"] > 0, f"none of {len(seen)} pods started beside the plugin"


def chained(containerd: Containerd) -> bool:
    text = (containerd.directory / "net.d" / "10-net.conflist").read_text()
    return [plugin["type"] for plugin in json.loads(text)["plugins"]] == ["bridge", "egress-gateway"]
