"""What the stores of container engines say, and which containers run beside the chain."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gateway_agent.container_engines.documents import (  # fmt: skip
    HOST,
    NONE,
    OWN,
    SHARED,
    Container,
    Listing,
    beside,
    containerd_names,
    of_containerd,
    of_podman,
)

from ..policy.small_inventory import inventory, policy

NETWORK = {"type": "network"}
STATE = {"state": 3, "pid": 42, "networkStatus": {"podman": {}}}
SELECTED = Container("c1", "web", {"a": "yes"}, 42)
INVENTORY = inventory(policy("a"))


def podman(
    state: dict[str, Any] | None = None, pod: dict[str, Any] | None = None, **config: Any
) -> Container:
    whole = {"id": "c1", "name": "web", "createNetNS": True, **config}
    return of_podman(json.dumps(whole), json.dumps(STATE if state is None else state), json.dumps(pod or {}))


def test_a_container_of_podman() -> None:
    assert podman(labels={"app": "b"}) == Container("c1", "web", {"app": "b"}, 42)
    assert podman().labels == {}
    assert podman(state={"state": 5, "pid": 42}).pid == 42
    assert podman(state={"state": 6, "pid": 42}).pid == 0


def test_the_container_of_a_podman_pod_that_has_the_network_is_the_pod() -> None:
    pod = {"name": "shop", "labels": {"app": "pod"}}
    found = podman(pod=pod, labels={"app": "infra", "x": "y"}, pause=True)
    assert (found.name, found.labels) == ("shop", {"app": "pod", "x": "y"})
    assert podman(pod=pod, labels={"app": "own"}).labels == {"app": "own"}


@pytest.mark.parametrize(
    ("config", "state", "network"),
    [
        ({}, STATE, OWN),
        ({}, {**STATE, "networkStatus": None}, NONE),
        ({"networkMode": "slirp4netns"}, {**STATE, "networkStatus": None}, HOST),
        ({"networkMode": "pasta"}, {**STATE, "networkStatus": None}, HOST),
        ({"createNetNS": False, "spec": {"linux": {"namespaces": [{"type": "pid"}]}}}, STATE, HOST),
        ({"createNetNS": False, "spec": {"linux": {"namespaces": [NETWORK]}}}, STATE, NONE),
        ({"createNetNS": False, "spec": {"linux": {"namespaces": [{**NETWORK, "path": "/x"}]}}}, STATE, OWN),
        ({"createNetNS": False, "netNsCtr": "c2"}, STATE, SHARED),
    ],
    ids=["its own", "no network yet", "slirp4netns", "pasta", "the node's", "none", "a given one", "shared"],
)
def test_whose_network_it_uses(config: dict[str, Any], state: dict[str, Any], network: str) -> None:
    assert podman(state, **config).network == network


@pytest.mark.parametrize(
    "wrong", [{"labels": []}, {"labels": {"a": 1}}, {"name": 1}, {"id": None}, {"netNsCtr": 7}]
)
def test_what_is_no_container_is_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="text"):
        podman(**wrong)


def test_a_container_of_containerd() -> None:
    named = {"ID": "f00", "Labels": {"app": "b", "nerdctl/name": "web"}}
    assert of_containerd(json.dumps(named)) == Container("f00", "web", named["Labels"])  # type: ignore[arg-type]
    assert of_containerd(json.dumps({"ID": "web", "Labels": None})) == Container("web", "web", {})
    with pytest.raises(ValueError, match="not a JSON object"):
        of_containerd("[]")


def test_what_the_id_of_a_call_can_mean() -> None:
    assert list(containerd_names("default-f00")) == [("default", "f00")]
    assert list(containerd_names("my-team-f00")) == [("my", "team-f00"), ("my-team", "f00")]
    assert (
        list(containerd_names("f00"))
        == list(containerd_names("-f00"))
        == list(containerd_names("f00-"))
        == []
    )
    assert len(list(containerd_names("-".join("abcdefghijkl")))) == 4


def found(*containers: Container, attached: tuple[str, ...] = (), backend: str = "") -> list[str]:
    return [str(each.problem) for each in beside(Listing("podman", backend, containers), attached, INVENTORY)]


def test_what_runs_beside_the_chain() -> None:
    assert "did not call the plugin for it" in found(SELECTED)[0]
    assert "netavark" in found(SELECTED, backend="netavark")[0]
    assert "network_backend" in found(SELECTED, backend="netavark")[0]
    assert "the node's network" in found(replace(SELECTED, network=HOST))[0]
    assert found(SELECTED, attached=("c1",)) == []
    assert found(replace(SELECTED, labels={})) == found(replace(SELECTED, pid=0)) == []
    assert found(replace(SELECTED, network=NONE)) == []


def test_who_shares_a_network_leaves_as_its_owner_does() -> None:
    guest = replace(SELECTED, id="c2", name="guest", network=SHARED, shares="c1")
    other = replace(SELECTED, labels={})
    assert found(SELECTED, guest, attached=("c1",)) == []
    assert "the network of container web" in found(other, guest, attached=("c1",))[0]
    assert len(found(SELECTED, guest)) == 2
    assert "the network of container c1" in found(guest)[0]
