"""A real podman runs containers through a conflist with our plugin: podman's own store has their labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ..lab import topology
from ..lab.cri.containerd import IMAGE
from ..lab.cri.podman import Container, Podman, PodmanError
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.topology import OUTSIDE
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

OTHER = {"app": "other"}
LOOK_S = 15.0
"""Seconds within which an agent reads the engines again."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("podman")
    lead(place, place / "root")
    return place


@pytest.fixture(scope="module")
def lab(plugin: Path, place: Path) -> Iterator[Lab]:
    options = {"engines": {"podman": str(place / "seen"), "containerd": ""}}
    with settled("test_podman", topology.separate(workers=1, gateways=2), options) as made:
        yield made


@pytest.fixture(scope="module")
def node(lab: Lab) -> Node:
    return lab.nodes["w1"]


@pytest.fixture(scope="module")
def podman(node: Node, place: Path) -> Iterator[Podman]:
    engine = Podman(node.machine, place)
    engine.use(node.network("bridge"))
    try:
        yield engine
    finally:
        engine.end()


def egress_ip(lab: Lab) -> str:
    return lab.nodes[lab.wait_settled(GATEWAY)].host.egress_ip


def problems(node: Node, container: str) -> list[str]:
    found = node.agent.status()["problems"]
    return [
        problem["message"]
        for problem in found
        if problem["source"].endswith((f"/{container}", f" {container}"))
    ]


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_a_label_selects_a_container(lab: Lab, node: Node, podman: Podman, kind: str) -> None:
    podman.use(node.network(kind))
    with lab.capture() as capture:
        selected = podman.start(f"yes-{kind}", BACKEND)
        assert selected.request(SELECTED).address == egress_ip(lab)
        assert selected.datagram(SELECTED).address == egress_ip(lab)
        assert capture.sources(SELECTED) == {egress_ip(lab)}
    other = podman.start(f"no-{kind}", OTHER)
    assert other.request(SELECTED).address == node.host.ip
    rows = {row["name"]: row["policies"] for row in node.agent.call("pods")["pods"]}
    assert rows[selected.name] and not rows[other.name]
    # A container that is started anew has the labels of its making.
    podman.call("stop", "--time", "0", selected.name)
    podman.call("start", selected.name)
    selected.attach()
    assert selected.request(SELECTED).address == egress_ip(lab)
    for container in (selected, other):
        container.stop()
    assert not {selected.name, other.name} & {row["name"] for row in node.agent.call("pods")["pods"]}


def test_a_podman_pod_has_the_labels_of_its_pod(lab: Lab, node: Node, podman: Podman) -> None:
    podman.use(node.network("bridge"))
    podman.call("pod", "create", "--name", "shop", "--label", "app=backend")
    member = podman.start("member", OTHER, "--pod", "shop")
    assert member.request(SELECTED).address == egress_ip(lab)
    member.stop()
    podman.call("pod", "rm", "--force", "--time", "0", "shop")


def test_a_container_with_several_networks_is_steered_on_all(lab: Lab, node: Node, podman: Podman) -> None:
    """One CNI call for each, also for a network that a running container joins."""
    podman.use(node.network("ptp"))
    podman.use(node.network("bridge"))
    names = [node.network(kind).name for kind in ("bridge", "ptp")]
    both = podman.start("both", BACKEND, f"--network={names[0]}", f"--network={names[1]}")
    joined = podman.start("joined", BACKEND)
    podman.call("network", "connect", names[1], "joined")
    for container in (both, joined):
        rows = [row for row in node.agent.call("pods")["pods"] if row["name"] == container.name]
        assert len({interface for row in rows for interface in row["interfaces"]}) == len(rows) == 2
        assert all(row["policies"] for row in rows)
        assert container.request(SELECTED).address == egress_ip(lab)
        container.stop()


def test_a_kube_manifest_brings_labels(lab: Lab, node: Node, podman: Podman) -> None:
    podman.use(node.network("bridge"))
    container = {"name": "c", "image": IMAGE, "imagePullPolicy": "Never"}
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "played", "labels": BACKEND},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }  # fmt: skip
    manifest = podman.directory / "played.yaml"
    manifest.write_text(json.dumps(pod))
    podman.call("play", "kube", "--network", node.network("bridge").name, str(manifest))
    member = Container(podman, "played-c")
    assert member.request(SELECTED).address == egress_ip(lab)
    member.detach()
    podman.call("play", "kube", "--replace", str(manifest))
    until(lambda: problems(node, "played"), "status says that it has a network of its own", LOOK_S)
    podman.call("pod", "rm", "--force", "--time", "0", "played")
    podman.call("network", "rm", "podman-default-kube-network")


def test_what_runs_beside_the_chain_is_a_problem(node: Node, podman: Podman) -> None:
    podman.use(node.network("bridge"))
    owner = podman.start("owner", OTHER)
    guest = podman.start("guest", BACKEND, "--network", "container:owner")
    on_host = podman.start("hosted", BACKEND, "--network", "host")
    nowhere = podman.start("nowhere", BACKEND, "--network", "none")
    until(lambda: problems(node, "guest") and problems(node, "hosted"), "status names both", LOOK_S)
    assert "it uses the network of container owner" in problems(node, "guest")[0]
    assert "it uses the node's network" in problems(node, "hosted")[0]
    assert node.agent.call("explain", pod="hosted", destination=OUTSIDE)["verdict"] == "direct"
    assert not problems(node, "owner") and not problems(node, "nowhere")
    for container in (guest, on_host, nowhere, owner):
        container.stop()
    until(lambda: not problems(node, "guest"), "the problem is gone with it", LOOK_S)


def test_a_container_of_a_network_without_the_plugin_is_a_problem(node: Node, podman: Podman) -> None:
    chained = node.network("bridge")
    podman.use(replace(chained, name="bare", plugins=chained.plugins[:1]))
    outside = podman.start("bare", BACKEND)
    until(lambda: problems(node, "bare"), "status names it", LOOK_S)
    assert "podman did not call the plugin for it" in problems(node, "bare")[0]
    outside.stop()


def test_podman_shows_the_backend_by_which_it_calls_plugins(podman: Podman) -> None:
    assert podman.call("info", "--format", "{{.Host.NetworkBackend}}").strip() == "cni"


def test_podman_with_netavark_is_a_problem_with_a_hint(node: Node, podman: Podman, place: Path) -> None:
    """Its networks call no plugin, so nothing steers its containers."""
    other = Podman(node.machine, place / "other", chooses=True)
    lead(place, other.root)
    try:
        container = other.start("unseen", BACKEND)
        assert container.request(SELECTED).address == node.host.ip
        until(lambda: problems(node, "unseen"), "status names it", LOOK_S)
        assert "network backend is netavark" in problems(node, "unseen")[0]
        explained = node.agent.call("explain", pod="unseen", destination=OUTSIDE)
        assert (explained["verdict"], explained["via"], explained["ip"]) == ("direct", "", "")
        container.stop()
        until(lambda: not problems(node, "unseen"), "the problem is gone with it", LOOK_S)
    finally:
        lead(place, podman.root)
        other.end()


def test_labels_that_become_known_count(lab: Lab, node: Node, podman: Podman, place: Path) -> None:
    chained = node.network("bridge")
    lenient = {**chained.plugins[1], "failurePolicy": "Ignore"}
    podman.use(replace(chained, plugins=(chained.plugins[0], lenient)))
    lead(place, place / "nowhere")
    try:
        container = podman.start("lenient", BACKEND)
        assert container.request(SELECTED).address == node.host.ip
        until(lambda: problems(node, "lenient"), "status names it", LOOK_S)
        assert "it uses no gateway" in problems(node, "lenient")[0]
        lead(place, podman.root)
        until(lambda: container.request(SELECTED, 0.5).address == egress_ip(lab), "it is steered", LOOK_S)
        assert not problems(node, "lenient")
        container.stop()
    finally:
        lead(place, podman.root)


@pytest.mark.parametrize("content", [None, b"garbage"], ids=["nothing there", "unreadable"])
def test_if_labels_cannot_be_known_no_container_starts(
    node: Node, podman: Podman, place: Path, content: bytes | None
) -> None:
    podman.use(node.network("bridge"))
    elsewhere = place / f"elsewhere-{content is None}"
    (elsewhere / "libpod").mkdir(parents=True)
    if content is not None:
        (elsewhere / "libpod" / "bolt_state.db").write_bytes(content)
    lead(place, elsewhere)
    try:
        with pytest.raises(PodmanError, match="its labels are not known"):
            podman.start("hidden", BACKEND)
        assert "not started" in problems(node, "hidden")[0]
    finally:
        lead(place, podman.root)
        podman.call("rm", "--force", "hidden")


def lead(place: Path, root: Path) -> None:
    """Let the agents see this directory as podman's."""
    draft = place / ".seen"
    draft.symlink_to(root)
    draft.rename(place / "seen")
