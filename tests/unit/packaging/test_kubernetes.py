"""The manifests under packaging/kubernetes, as kustomize renders them."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from gateway_agent import config
from gateway_agent.config import KubernetesStoreConfig
from gateway_agent.kubernetes import voter_configmap
from gateway_agent.lease.voting import recorded_voter_set
from gateway_agent.lease.voting.voter_set import VoterSet
from gateway_agent.manifests.parsing import parse
from tests.lab.apiserver.client import Cluster, path_of
from tests.lab.apiserver.upstream import VARIABLE, reached
from tests.lab.namespace import REPOSITORY

MANIFESTS = REPOSITORY / "packaging" / "kubernetes"
INSTALLATION = REPOSITORY / "docs" / "install-kubernetes.md"
VERSIONS = ("1.28", "1.32")
"""Versions of Kubernetes whose schemas the manifests are checked against."""
RULES = "x-kubernetes-validations"
Document = dict[str, Any]


@cache
def rendered(directory: str = "") -> tuple[Document, ...]:
    command = ["kubectl", "kustomize", str(MANIFESTS / directory)]
    return tuple(
        yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    )


def only(kind: str, directory: str = "") -> Document:
    [found] = [document for document in rendered(directory) if document["kind"] == kind]
    return found


def pod(directory: str = "") -> Document:
    return dict(only("DaemonSet", directory)["spec"]["template"]["spec"])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("directory", ["", "uninstall"])
def test_the_api_would_take_them(directory: str, version: str) -> None:
    for document in rendered(directory):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("directory", ["", "uninstall"])
def test_a_real_api_takes_them(directory: str, tmp_path: Path) -> None:
    with reached(tmp_path / "upstream.sock") as upstream:
        if upstream is None:
            pytest.skip(f"needs {VARIABLE}")
        real = Cluster(upstream)
        real.namespace("egress-gateway")
        for document in rendered(directory):
            taken = real.apply(document, "?dryRun=All&fieldValidation=Strict")
            assert taken["metadata"]["name"] == document["metadata"]["name"]


def test_the_configuration_is_one_that_the_agent_takes() -> None:
    [data] = [found["data"]["agent.yaml"] for found in rendered() if "agent.yaml" in found.get("data", {})]
    parsed = config.parse("agent.yaml", data, "a-node")
    assert (parsed.store, parsed.node_name) == (KubernetesStoreConfig(), "a-node")
    [agent] = [container for container in pod()["containers"] if container["name"] == "agent"]
    assert str(parsed.key_file.parent) in {mount["mountPath"] for mount in agent["volumeMounts"]}
    assert str(parsed.run_dir) in {mount["mountPath"] for mount in agent["volumeMounts"]}
    for probe in ("livenessProbe", "readinessProbe"):
        assert (agent[probe]["httpGet"]["host"], agent[probe]["httpGet"]["port"]) == parsed.metrics_listen


@pytest.mark.parametrize("directory", ["", "uninstall"])
def test_no_container_is_privileged(directory: str) -> None:
    for container in (*pod(directory)["initContainers"], *pod(directory)["containers"]):
        context = container["securityContext"]
        assert not context.get("privileged")
        assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
        assert context["capabilities"]["drop"] == ["ALL"]
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}


def test_every_volume_is_used_and_the_hosts_cni_only_by_those_with_no_other_right() -> None:
    spec = pod()
    used: dict[str, list[Any]] = {}
    for container in (*spec["initContainers"], *spec["containers"]):
        for mount in container["volumeMounts"]:
            used.setdefault(mount["name"], []).append(container)
    assert used.keys() == {volume["name"] for volume in spec["volumes"]}
    for container in used["cni-conf"] + used["cni-bin"]:
        assert container["securityContext"]["capabilities"]["add"] == ["DAC_OVERRIDE"]
        mounts = {"cni-bin", "cni-conf", "cni-report", "containerd"}
        assert {mount["name"] for mount in container["volumeMounts"]} == mounts
    assert [container["name"] for container in used["token"]] == ["agent"]


@pytest.mark.parametrize("directory", ["", "uninstall"])
def test_what_a_server_side_apply_compares_as_a_whole_has_its_defaults(directory: str) -> None:
    """A ``fieldRef`` is atomic, and so is a list that has one: without its default it differs from what is stored."""
    found = list(parts(rendered(directory), "fieldRef"))
    assert bool(found) == (not directory)
    assert all(reference.get("apiVersion") == "v1" for reference in found)


def parts(value: Any, name: str) -> Iterator[Any]:
    """Yield what stands under this name anywhere in a document."""
    if isinstance(value, dict):
        yield from (child for key, child in value.items() if key == name)
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for child in children:
        yield from parts(child, name)


@pytest.mark.parametrize("directory", ["", "uninstall"])
def test_a_server_side_apply_follows_a_client_side_one(directory: str, tmp_path: Path) -> None:
    with reached(tmp_path / "upstream.sock") as upstream:
        if upstream is None:
            pytest.skip(f"needs {VARIABLE}")
        real = Cluster(upstream)
        real.namespace("egress-gateway")
        documents = list(rendered(directory))
        try:
            apply(documents)
            # A server without CEL has stored other definitions than these.
            stored = [str(real.call("GET", path_of(document)).get("spec")) for document in documents]
            known = [
                d for d, spec in zip(documents, stored, strict=True) if RULES in spec or RULES not in str(d)
            ]
            apply(known, "--server-side")
        finally:
            for document in documents:
                # Without controllers the end of a namespace never comes.
                if document["kind"] != "Namespace":
                    real.delete(path_of(document))


def apply(documents: list[Document], *options: str) -> None:
    """As a user does, who is another manager of the fields than the agents are. An older server lacks some schemas."""
    command = [
        "kubectl",
        "--kubeconfig",
        os.environ[VARIABLE],
        "apply",
        "--validate=false",
        *options,
        "-f",
        "-",
    ]
    text = yaml.safe_dump_all(documents)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_agents_write_is_in_no_manifest() -> None:
    """Else an apply would take it back, or a server-side one be refused."""
    [voters] = [found for found in rendered() if found["metadata"]["name"] == recorded_voter_set.NAME]
    patch = voter_configmap.correction(voters, VoterSet(7, ("a", "b", "c")), settled=True)
    assert patch is not None
    assert voters.keys() & patch.keys() == {"metadata"}
    assert patch["metadata"].keys() == {"resourceVersion"}
    assert not any("status" in document for document in rendered())


def test_the_key_is_on_no_command_line() -> None:
    [line] = [line for line in INSTALLATION.read_text().splitlines() if "create secret" in line]
    made = subprocess.run(
        ["bash", "-c", f"{line} --dry-run=client -o json"], capture_output=True, text=True, check=True
    )
    key = base64.b64decode(json.loads(made.stdout)["data"]["cluster.key"])
    assert re.fullmatch(rb"[0-9a-f]{64}\n", key)
    assert "$(" not in line
    assert "literal" not in line


def test_the_examples_are_valid() -> None:
    files = [(str(path), path.read_text()) for path in sorted((MANIFESTS / "examples").iterdir())]
    inventory = parse(files)
    assert not inventory.problems
    assert {gateway.mode for gateway in inventory.gateways} == {
        "PrimaryIPFromEgressGatewayNodeInterface", "VirtualIPAddress",
    }  # fmt: skip
    assert {policy.gateway for policy in inventory.policies} == {
        gateway.name for gateway in inventory.gateways
    }
