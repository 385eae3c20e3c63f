"""The commands of docs/install-kubernetes.md, as kubectl carries them out; the test plays the controllers."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
import yaml

from tests.lab.apiserver.client import path_of
from tests.lab.apiserver.local import LocalServer, serving
from tests.lab.apiserver.upstream import VARIABLE
from tests.lab.namespace import REPOSITORY
from tests.lab.waiting import until

MANIFESTS = REPOSITORY / "packaging" / "kubernetes"
TEXT = (REPOSITORY / "docs" / "install-kubernetes.md").read_text()
NAMESPACE = "egress-gateway"
TAINT = "egress-gateway.io/not-ready"
SETS = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets"
AGENT, UNINSTALL = f"{SETS}/agent", f"{SETS}/uninstall"


def commands(section: str) -> list[str]:
    """Return the lines of the code blocks under a heading."""
    _, _, after = TEXT.partition(f"\n## {section}\n")
    blocks = re.findall(r"^```\n(.*?)^```$", after.partition("\n## ")[0], re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


def starting(section: str, start: str) -> list[str]:
    found = [command for command in commands(section) if command.startswith(start)]
    assert found
    return found


class Kubectl:
    """kubectl against a server of the lab."""

    def __init__(self, server: LocalServer, directory: Path) -> None:
        self.server = server
        self._env = {**os.environ, "KUBECONFIG": str(server.kubeconfig), "HOME": str(directory)}

    def start(self, *lines: str) -> subprocess.Popen[str]:
        # The server of the lab has no schemas that kubectl could validate by.
        text = " && ".join(lines).replace("kubectl apply", "kubectl apply --validate=false")
        pipe = subprocess.PIPE
        return subprocess.Popen(
            ["bash", "-c", text],
            cwd=REPOSITORY,
            env=self._env,
            stdout=pipe,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *lines: str) -> str:
        process = self.start(*lines)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        return output

    def asks(self, what: str) -> int:
        return self.server.cluster.requests().get(what, 0)


@pytest.fixture
def kubectl(tmp_path: Path) -> Iterator[Kubectl]:
    if os.environ.get(VARIABLE):
        pytest.skip("a server without controllers ends no namespace")
    # Without TLS kubectl sends no token.
    with serving(tmp_path, trustme.CA()) as server:
        server.cluster.delete(f"/api/v1/namespaces/{NAMESPACE}")
        made = Kubectl(server, tmp_path)
        made.run(*starting("Install", "kubectl apply"))
        yield made


def counted(kubectl: Kubectl, path: str, ready: int) -> None:
    """Of two nodes, so many have a pod that is ready."""
    status = {
        "observedGeneration": 1, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2,
        "numberReady": ready, "numberAvailable": ready,
    }  # fmt: skip
    kubectl.server.cluster.call("PATCH", f"{path}/status", {"status": status})


def test_what_waits_for_the_agents_ends_when_all_are_ready(kubectl: Kubectl) -> None:
    watching = f"GET {SETS} (watch)"
    kubectl.server.cluster.call(
        "PATCH", f"{AGENT}/status", {"status": {"desiredNumberScheduled": 0, "numberReady": 0}}
    )
    waiting = kubectl.start(*starting("Install", "kubectl -n egress-gateway wait"))
    until(lambda: kubectl.asks(watching) == 1, "kubectl waits for the controller")
    counted(kubectl, AGENT, 1)
    until(lambda: kubectl.asks(watching) == 2, "kubectl waits for the agents")
    assert waiting.poll() is None
    counted(kubectl, AGENT, 2)
    output, _ = waiting.communicate(timeout=10)
    assert waiting.returncode == 0, output


def test_kubectl_itself_refuses_to_wait_for_the_agents(kubectl: Kubectl) -> None:
    """Once it does not, the README has a shorter way."""
    process = kubectl.start(f"kubectl -n {NAMESPACE} rollout status daemonset/agent")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "only available for RollingUpdate" in output


def test_an_update_waits_for_the_new_pod_of_the_node(kubectl: Kubectl) -> None:
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
    labels = {"app.kubernetes.io/component": "agent"}

    def runs(name: str, node: str, ready: str) -> None:
        kubectl.server.cluster.run(NAMESPACE, name, node, labels)
        condition = {"type": "Ready", "status": ready}
        kubectl.server.cluster.call("PATCH", f"{pods}/{name}/status", {"status": {"conditions": [condition]}})

    runs("old", "w1", "True")
    runs("other", "w2", "True")
    updating = kubectl.start(*(line.replace("NODE", "w1") for line in commands("Update")))
    until(
        lambda: kubectl.server.cluster.ask("GET", f"{pods}/old")[0] == http.client.NOT_FOUND,
        "the pod is deleted",
    )
    runs("new", "w1", "False")
    until(lambda: kubectl.asks(f"GET {pods} (watch)"), "kubectl waits for the new one")
    assert updating.poll() is None
    runs("new", "w1", "True")
    output, _ = updating.communicate(timeout=30)
    assert updating.returncode == 0, output
    assert kubectl.server.cluster.ask("GET", f"{pods}/other")[0] == http.client.OK


def test_the_uninstall_leaves_nothing_and_each_command_may_be_given_again(kubectl: Kubectl) -> None:
    """Also after its end, for a node that was away."""
    first, *others = commands("Uninstall")
    assert len(others) == 4
    kubectl.run(first, first)
    for _ in range(2):
        for command in others:
            kubectl.run(command)
            if "apply" in command:
                counted(kubectl, UNINSTALL, 2)
            kubectl.run(command)
        rendered = [
            document for directory in ("", "uninstall") for document in manifests(MANIFESTS / directory)
        ]
        stored = [kubectl.server.cluster.ask("GET", path_of(document))[0] for document in rendered]
        assert set(stored) == {http.client.NOT_FOUND}
        kubectl.run("kubectl apply -f packaging/kubernetes/namespace.yaml")


def test_the_uninstall_waits_for_a_node_that_is_not_ready(kubectl: Kubectl) -> None:
    commands_ = commands("Uninstall")
    kubectl.run(*commands_[:2])
    counted(kubectl, UNINSTALL, 1)
    waiting = kubectl.start(commands_[2])
    until(lambda: kubectl.asks(f"GET {SETS} (watch)"), "kubectl waits")
    assert waiting.poll() is None
    counted(kubectl, UNINSTALL, 2)
    output, _ = waiting.communicate(timeout=10)
    assert waiting.returncode == 0, output
    assert "1 of 2" in output


def manifests(directory: Path) -> list[dict[str, object]]:
    done = subprocess.run(
        ["kubectl", "kustomize", str(directory)], check=True, capture_output=True, text=True
    )
    return list(yaml.safe_load_all(done.stdout))


def images(directory: Path) -> set[str]:
    return set(re.findall(r"image: (\S+)", yaml.safe_dump_all(manifests(directory))))


def test_the_taint_is_taken_off_each_node(kubectl: Kubectl) -> None:
    """A node without the taint is an error for kubectl, and does not keep it from the next one."""
    other, ours = {"key": "own", "effect": "NoSchedule"}, {"key": TAINT, "effect": "NoSchedule"}
    for name, taints in (("w1", [other]), ("w2", [other, ours]), ("w3", [ours])):
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"taints": taints}}
        kubectl.server.cluster.apply(node)
    process = kubectl.start(*starting("Keep pods off nodes that are not ready", "kubectl taint"))
    output, _ = process.communicate(timeout=60)
    assert "not found" in output
    found = {
        name: kubectl.server.cluster.ask("GET", f"/api/v1/nodes/{name}")[1] for name in ("w1", "w2", "w3")
    }
    keys = {name: [each["key"] for each in node["spec"].get("taints") or ()] for name, node in found.items()}
    assert keys == {"w1": ["own"], "w2": ["own"], "w3": []}


def test_the_recorded_voters_are_forgotten(kubectl: Kubectl) -> None:
    page = (REPOSITORY / "docs" / "operations-kubernetes.md").read_text()
    [command] = re.findall(r"^kubectl .* patch .*$", page, re.MULTILINE)
    record = {"metadata": {"name": "egress-gateway-voters", "namespace": NAMESPACE}, "data": {"version": "3"}}
    kubectl.server.cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", **record})
    kubectl.run(command)
    _, left = kubectl.server.cluster.ask(
        "GET", f"/api/v1/namespaces/{NAMESPACE}/configmaps/egress-gateway-voters"
    )
    assert "data" not in left


def test_the_image_is_named_without_another_program(tmp_path: Path) -> None:
    copy = shutil.copytree(MANIFESTS, tmp_path / "packaging" / "kubernetes")
    [line] = starting("Install", "sed ")
    subprocess.run(["bash", "-c", f"registry=quay.example/net\n{line}"], check=True, cwd=tmp_path)
    for directory in ("", "uninstall"):
        assert images(copy / directory) == {"quay.example/net/egress-gateway:0.1.0"}


@pytest.mark.parametrize("directory", ["", "uninstall"])
def test_the_image_is_named_by_an_overlay(tmp_path: Path, directory: str) -> None:
    shutil.copytree(MANIFESTS, tmp_path / "packaging")
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    image = {"name": "registry.example.com/egress-gateway", "newName": "quay.example/mine", "newTag": "1"}
    assert "images: [{name: registry.example.com/egress-gateway, newName: …, newTag: …}]" in TEXT
    written = {"resources": [f"../packaging/{directory}"], "images": [image]}
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(written))
    assert images(overlay) == {"quay.example/mine:1"}
