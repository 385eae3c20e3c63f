"""The plugin's entry beside the network's own file, with a containerd that loads drop-ins and with one that does not.

The newer containerd is Debian sid's. The main network plugin's file is written again and again, without our entry.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from gateway_agent.cni_install import installer as program
from gateway_agent.ctl import runtime_report

from ..lab import documents, topology
from ..lab.cri import conflist
from ..lab.cri.containerd import Containerd
from ..lab.cri.sandbox import Sandbox
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.topology import VIRTUAL
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

REWRITES = 60
AT_ONCE = 3
NEWER = Path(__file__).parents[2] / "build" / "containerd" / "bin"
"""Programs of a containerd that loads drop-ins, as ``./install.sh test`` downloads them."""


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    objects = documents.virtual_ip([VIRTUAL], GATEWAY)
    machines = topology.separate(workers=1, gateways=1)
    with settled("test_drop_in", machines, objects=objects, store="kubernetes") as made:
        yield made


@pytest.fixture(scope="module")
def node(lab: Lab) -> Node:
    return lab.nodes["w1"]


@pytest.fixture
def containerd(node: Node) -> Iterator[Containerd]:
    runtime = Containerd(node.machine, node.directory / "cri")
    alone(node, runtime)
    runtime.start(programs=NEWER)
    try:
        yield runtime
        for sandbox in runtime.sandboxes():
            runtime.stop(sandbox)
    finally:
        runtime.end()
        shutil.rmtree(runtime.directory)


def alone(node: Node, containerd: Containerd) -> None:
    """Write the network's file without our entry."""
    network = node.network("bridge")
    containerd.use(replace(network, plugins=network.plugins[:1]))


def drop_in(containerd: Containerd) -> Path:
    [own] = (containerd.directory / "net.d").glob("*.conflist")
    return own.parent / str(json.loads(own.read_text())["name"]) / "99-egress-gateway.conf"


def by_drop_in(containerd: Containerd) -> bool:
    return drop_in(containerd).exists() and not conflist.chained(containerd)


def loaded(containerd: Containerd) -> str:
    found = runtime_report.examine(containerd.socket)
    assert found is not None
    assert found.judged, found
    return "" if found.wrong else found.found


def life(node: Node, containerd: Containerd, name: str) -> str:
    """Return the address that the outside sees of a pod from its start on."""
    sandbox = Sandbox(node, containerd, name, BACKEND)
    try:
        sandbox.cluster.runs("prod", sandbox.name, sandbox.address)
        return until(lambda: sandbox.request(SELECTED, seconds=20).address, f"an answer to {name}")
    finally:
        sandbox.stop()


def another_version(containerd: Containerd) -> None:
    """End the runtime, and remove what another version may not be able to read."""
    containerd.end()
    for name in ("root", "state"):
        shutil.rmtree(containerd.directory / name)
    (containerd.directory / "pause.tar").unlink()


def test_no_pod_starts_beside_a_drop_in_while_the_file_is_rewritten(
    lab: Lab, node: Node, containerd: Containerd
) -> None:
    with conflist.installer(node, containerd):
        until(lambda: by_drop_in(containerd), "the entry is beside the file")
        assert loaded(containerd).count("egress-gateway") == 1
        before = node.agent.status()["startedBeside"]
        seen: list[str] = []
        with lab.capture() as capture:
            with conflist.rewriting(node, containerd, REWRITES) as done, ThreadPoolExecutor(AT_ONCE) as pool:
                while not done.is_set():
                    names = [f"beside-{len(seen) + place}" for place in range(AT_ONCE)]
                    seen += pool.map(lambda name: life(node, containerd, name), names)
            assert set(seen) == {VIRTUAL}
            assert capture.sources(SELECTED) == {VIRTUAL}
        assert node.agent.status()["startedBeside"] == before
        assert by_drop_in(containerd)


def test_an_older_runtime_gets_the_entry_in_the_file(node: Node, containerd: Containerd) -> None:
    with conflist.installer(node, containerd):
        until(lambda: by_drop_in(containerd), "the entry is beside the file")
        another_version(containerd)
        containerd.start()
        until(
            lambda: conflist.chained(containerd) and not drop_in(containerd).parent.exists(),
            "it is in the file",
        )
        assert loaded(containerd).count("egress-gateway") == 1
        assert life(node, containerd, "older") == VIRTUAL
        another_version(containerd)
        containerd.start(programs=NEWER)
        until(lambda: by_drop_in(containerd), "the entry is beside the file again")


def test_what_is_installed_once_is_removed_whole(node: Node, containerd: Containerd, plugin: Path) -> None:
    directory = containerd.directory
    before = sorted((directory / "net.d").rglob("*"))
    options = [
        f"--bin-dir={directory / 'bin'}", f"--conf-dir={directory / 'net.d'}", f"--report={directory / 'report.json'}",
        f"--cri-socket={containerd.socket}", f"--plugin={plugin}",
    ]  # fmt: skip
    assert program.main(["install", *options]) == 0
    assert by_drop_in(containerd)
    assert str(drop_in(containerd)) in (directory / "report.json").read_text()
    assert program.main(["remove", *options]) == 0
    until(lambda: not loaded(containerd), "the runtime has read it again")
    assert sorted((directory / "net.d").rglob("*")) == before
