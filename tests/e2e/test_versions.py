"""A node is upgraded, its agent and its plugin in any order: pods start or get a clear error, and nothing leaks.

``--earlier DIRECTORY`` names a checkout of an earlier version with its plugin in ``dist/``. Without it both versions
are this one: the order of an upgrade is the same then.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cni import contract

from ..lab import documents, topology
from ..lab.cnirun import OUR_PLUGINS, REFERENCE_PLUGINS, CniError
from ..lab.lab import SELECTED, Lab
from ..lab.namespace import REPOSITORY
from ..lab.node import Node
from ..lab.pod import Pod
from ..lab.topology import VIRTUAL
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, LOGS

NAMES = itertools.count()
PYTHON = REPOSITORY / ".venv" / "bin" / "python"
LATER = ("engines", "stateDir")
"""Keys of the lab's configuration that earlier versions do not know."""
REFUSED = "a clear error"
NOTHING = "no answer"


class Versions:
    """Two versions of the programs of a node."""

    def __init__(self, earlier: Path) -> None:
        self._configurations: dict[str, dict[str, Any]] = {}
        self._trees = {"earlier": earlier, "this": REPOSITORY}

    def plugin(self, node: Node, version: str) -> None:
        """Install the plugin of a version."""
        ours = OUR_PLUGINS if version == "this" else self._trees[version] / "dist"
        node.runtime.plugin_path = (ours, REFERENCE_PLUGINS)

    def agent(self, node: Node, version: str) -> None:
        """Let the agent's next start be of a version."""
        document = self._configurations.setdefault(node.name, yaml.safe_load(node.agent.config.read_text()))
        if version == "earlier" and self._trees[version] != REPOSITORY:
            document = {key: value for key, value in document.items() if key not in LATER}
        node.agent.config.write_text(yaml.safe_dump(document))
        # -m takes modules of the current directory first.
        node.agent.program = ("env", "-C", str(self._trees[version]), str(PYTHON), "-m", "gateway_agent")

    def check(self, node: Node, version: str) -> None:
        """Assert that the node's plan has the format of a version: its agent is of that version."""
        text = (self._trees[version] / "cni" / "plan.py").read_text()
        [number] = re.findall(r"^VERSION = (\d+)$", text, re.MULTILINE)
        assert node.plan()["version"] == int(number)


@pytest.fixture
def versions(request: pytest.FixtureRequest) -> Versions:
    given: Path | None = request.config.getoption("--earlier")
    return Versions(given.resolve() if given else REPOSITORY)


@pytest.fixture
def lab(plugin: Path, versions: Versions) -> Iterator[Lab]:
    with Lab(topology.separate(workers=1, gateways=2)) as made:
        try:
            for node in made.nodes.values():
                versions.agent(node, "earlier")
                versions.plugin(node, "earlier")
            made.publish_nodes()
            made.publish("objects", documents.virtual_ip([VIRTUAL], GATEWAY))
            made.start_agents()
            made.wait_settled(GATEWAY, 40)
            yield made
        finally:
            made.save_logs(LOGS / "test_versions")


def restart(node: Node) -> None:
    node.agent.stop()
    node.agent.start()
    until(node.agent.answers, f"the agent of {node.name} answers")


def start_pod(node: Node) -> tuple[Pod, str]:
    """Start a selected pod. Return it and the address that the outside sees, or how it fails."""
    pod = node.new_pod(f"p-{next(NAMES)}", BACKEND)
    try:
        pod.start()
    except CniError as error:
        assert error.code == contract.TRY_AGAIN_LATER, error
        assert error.message
        return pod, REFUSED
    return pod, address_seen(pod)


def address_seen(pod: Pod) -> str:
    try:
        return pod.request(SELECTED).address
    except OSError:
        return NOTHING


@pytest.mark.parametrize("first", ["plugin", "agent"])
def test_a_worker_is_upgraded(lab: Lab, versions: Versions, first: str) -> None:
    """Each step is done with the agent running, and while it is away."""
    worker = lab.nodes["w1"]
    seen: dict[str, str] = {}
    pods: list[Pod] = []

    def start(when: str) -> None:
        pod, seen[when] = start_pod(worker)
        if seen[when] != REFUSED:
            pods.append(pod)

    with lab.capture() as capture:
        versions.check(worker, "earlier")
        start("before")
        for step in ("half", "whole"):
            if (first == "plugin") == (step == "half"):
                versions.plugin(worker, "this")
            else:
                versions.agent(worker, "this")
                restart(worker)
            start(step)
            worker.agent.kill()
            start(f"{step}, no agent")
            worker.agent.start()
            until(worker.agent.answers, "the agent answers")
        for node in lab.nodes.values():
            versions.agent(node, "this")
            restart(node)
        lab.wait_settled(GATEWAY, 40)
        versions.check(worker, "this")
        for pod in pods:
            until(lambda pod=pod: address_seen(pod) == VIRTUAL, f"{pod.name} gets through", 20)  # type: ignore[misc]
        print(first, seen)
        assert set(seen.values()) <= {VIRTUAL, REFUSED, NOTHING}
        assert capture.sources(SELECTED) == {VIRTUAL}
