"""Objects of the API to the inventory."""

from __future__ import annotations

from typing import Any

import pytest

from cni.plan import PodIdentity
from gateway_agent.kubernetes.objects import InventoryBuilder, Resource, missing, prune, resources
from gateway_agent.lease.voting import recorded_voter_set
from gateway_agent.lease.voting.voter_set import VoterSet
from gateway_agent.manifests.model import Node, Problem
from gateway_agent.policy.planner import identify, never_sent
from tests.lab import documents

RESOURCES = {resource.kind: resource for resource in resources("egress-gateway.io", "w1", "egress-gateway")}
POLICY = RESOURCES["EgressGatewayPolicy"]


def of_api(kind: str, document: dict[str, Any], version: int = 1, **metadata: Any) -> Any:
    """As an agent keeps it."""
    bare = {name: value for name, value in document.items() if name not in ("apiVersion", "kind")}
    bare["metadata"] = {**bare["metadata"], "resourceVersion": str(version), **metadata}
    return prune(RESOURCES[kind], bare)


def policy(name: str = "backend", gateway: str = "partner", version: int = 1, **metadata: Any) -> Any:
    return of_api(
        "EgressGatewayPolicy", documents.policy(name, gateway, {"app": "backend"}), version, **metadata
    )


def gateway(name: str = "partner") -> Any:
    return of_api("EgressGateway", documents.gateway(name, "eth1"))


def pod(name: str, **labels: str) -> Any:
    return of_api("Pod", {"metadata": {"name": name, "namespace": "prod", "labels": labels}})


@pytest.mark.parametrize(
    ("kind", "path", "one"),
    [
        ("Node", "/api/v1/nodes", "/api/v1/nodes/x"),
        ("Pod", "/api/v1/pods", "/api/v1/namespaces/prod/pods/x"),
        (
            "ServiceCIDR",
            "/apis/networking.k8s.io/v1/servicecidrs",
            "/apis/networking.k8s.io/v1/servicecidrs/x",
        ),
        (
            "EgressGateway",
            "/apis/egress-gateway.io/v1alpha1/egressgateways",
            "/apis/egress-gateway.io/v1alpha1/egressgateways/x",
        ),
    ],
)
def test_paths(kind: str, path: str, one: str) -> None:
    assert RESOURCES[kind].path == path
    assert RESOURCES[kind].path_of("prod" if kind == "Pod" else "", "x") == one


def test_of_pods_only_those_of_the_node_are_watched() -> None:
    assert RESOURCES["Pod"].selector == "spec.nodeName=w1"
    assert {kind for kind, resource in RESOURCES.items() if resource.selector} == {"Pod", "ConfigMap"}


def test_what_is_not_used_is_not_kept() -> None:
    node = {
        "metadata": {"name": "n", "labels": {"a": "b"}, "managedFields": [{}], "annotations": {"x": "y"}},
        "spec": {"podCIDRs": ["10.244.1.0/24"], "providerID": "x", "taints": [{"key": "a"}]},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "images": [{}] * 50},
    }
    assert prune(RESOURCES["Node"], node) == {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n", "labels": {"a": "b"}},
        # The list of taints is written as a whole: those of others must be known.
        "spec": {"podCIDRs": ["10.244.1.0/24"], "taints": [{"key": "a"}]},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
    }
    assert prune(POLICY, {"metadata": {"name": "p"}, "spec": {"a": 1}, "status": {}, "more": 2}) == {
        "apiVersion": "egress-gateway.io/v1alpha1",
        "kind": "EgressGatewayPolicy",
        "metadata": {"name": "p"},
        "spec": {"a": 1},
        "status": {},
        "more": 2,
    }


def test_a_static_pod_has_the_uid_that_its_runtime_knows() -> None:
    document = {"metadata": {"name": "a", "namespace": "prod", "uid": "of the API"}}
    assert InventoryBuilder().inventory([of_api("Pod", document)]).uids == {("prod", "a"): "of the API"}
    # Anybody may set the other one.
    given = {
        "kubernetes.io/config.mirror": "of the node",
        "kubernetes.io/config.hash": "of a copied manifest",
    }
    static = of_api("Pod", document, annotations=given)
    assert static["metadata"]["annotations"] == {"kubernetes.io/config.mirror": "of the node"}
    assert InventoryBuilder().inventory([static]).uids == {("prod", "a"): "of the node"}


def test_the_inventory_is_that_of_the_same_documents_in_a_file() -> None:
    node = {
        "metadata": {"name": "w1", "labels": {"role": "worker"}},
        "spec": {"podCIDRs": ["10.244.1.0/24", "fd00::/64"], "unschedulable": True},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": "10.0.0.1"},
                {"type": "Hostname", "address": "w1"},
            ]
        },
    }
    namespace = {"metadata": {"name": "prod", "labels": {"team": "pay"}}}
    objects = [
        gateway(),
        policy(),
        of_api("Node", node),
        of_api("Namespace", namespace),
        pod("a", app="backend"),
    ]
    inventory = InventoryBuilder().inventory(objects)
    assert not inventory.problems
    assert [g.name for g in inventory.gateways] == ["partner"]
    assert [(p.name, p.gateway) for p in inventory.policies] == [("backend", "partner")]
    cidrs = ("10.244.1.0/24", "fd00::/64")
    assert inventory.nodes == (Node("w1", {"role": "worker"}, ("10.0.0.1",), "Node w1", cidrs, True),)
    assert {cidr: never_sent(inventory, ())[cidr] for cidr in cidrs} == dict.fromkeys(
        cidrs, "cluster network"
    )
    assert inventory.namespaces == {"prod": {"team": "pay"}}
    assert inventory.pods == (PodIdentity("prod", "a", {"app": "backend"}),)


def test_an_object_that_has_become_wrong_keeps_its_last_good_state() -> None:
    picture = InventoryBuilder()
    picture.inventory([gateway(), policy()])
    broken = policy(version=2) | {"spec": {"egressGatewayName": "partner"}}
    inventory = picture.inventory([gateway(), broken])
    assert [p.name for p in inventory.policies] == ["backend"]
    [problem] = inventory.problems
    assert (problem.source, problem.path) == ("EgressGatewayPolicy backend", "spec.selectors")
    assert picture.inventory([gateway(), broken]).policies == inventory.policies
    # Another object of that name is nothing that was good.
    renewed = broken | {"metadata": {**broken["metadata"], "uid": "another"}}
    assert picture.inventory([gateway(), renewed]).policies == ()
    assert picture.inventory([gateway()]).problems == ()


def test_troubles_of_the_store_are_listed_beside_the_objects() -> None:
    trouble = Problem("Kubernetes API", "pods", "no answer")
    inventory = InventoryBuilder().inventory([policy(gateway="none")], [trouble])
    assert [problem.source for problem in inventory.problems] == [
        "EgressGatewayPolicy backend",
        "Kubernetes API",
    ]


def test_of_a_pod_that_the_store_does_not_know_the_labels_are_unknown() -> None:
    inventory = InventoryBuilder().inventory([pod("a", app="backend")])
    assert identify(inventory, "prod", "a", None).labels == {"app": "backend"}
    assert identify(inventory, "prod", "b", None).labels is None
    assert identify(inventory, "prod", "b", {"app": "what it was"}).labels == {"app": "what it was"}


@pytest.mark.parametrize(
    ("known", "listed", "late"),
    [
        ({}, {"a": "1"}, ["a"]),
        ({"a": "1"}, {"a": "1"}, []),
        ({"a": "9"}, {"a": "10"}, ["a"]),
        ({"a": "10"}, {"a": "9"}, []),
        ({"a": "10", "b": "2"}, {"a": "10"}, []),
        ({"a": "x"}, {"a": "y"}, ["a"]),
        ({"a": "x"}, {"a": "x"}, []),
    ],
)
def test_what_the_watch_has_not_delivered_yet(
    known: dict[str, str], listed: dict[str, str], late: list[str]
) -> None:
    def items(versions: dict[str, str]) -> list[Any]:
        return [
            {"metadata": {"name": name, "resourceVersion": version}} for name, version in versions.items()
        ]

    ours = {("", item["metadata"]["name"]): item for item in items(known)}
    assert missing(ours, items(listed)) == [("", name) for name in late]


def test_another_group() -> None:
    [first, *_] = resources("network.deckhouse.io", "w1", "egress-gateway")
    assert first == Resource("EgressGateway", "network.deckhouse.io/v1alpha1", "egressgateways")


def test_the_voters_are_in_one_namespace_of_ours() -> None:
    watched = RESOURCES["ConfigMap"]
    assert watched.path == "/api/v1/namespaces/egress-gateway/configmaps"
    assert watched.selector == f"metadata.name={recorded_voter_set.NAME}"
    document = {
        "metadata": {"name": recorded_voter_set.NAME, "namespace": "egress-gateway"},
        "binaryData": {"x": ""},
    }
    kept = of_api("ConfigMap", {**document, "data": {"version": "2", "members": "g1 g2 g3", "note": "x"}})
    assert kept["data"] == {"version": "2", "members": "g1 g2 g3"}
    assert "binaryData" not in kept
    assert InventoryBuilder().inventory([kept]).voters == VoterSet(2, ("g1", "g2", "g3"))
    assert InventoryBuilder().inventory([]).voters is None


def test_a_node_that_is_being_shut_down() -> None:
    conditions = [
        {"type": "MemoryPressure", "status": "False", "lastHeartbeatTime": "2026-11-26T16:00:00Z"},
        {"type": "Ready", "status": "False", "message": "node is shutting down", "lastHeartbeatTime": "x"},
    ]
    document = {"metadata": {"name": "g1"}, "status": {"conditions": conditions, "images": ["many"]}}
    kept = of_api("Node", document)
    assert kept["status"] == {"conditions": [{"type": "Ready", "message": "node is shutting down"}]}
    assert InventoryBuilder().inventory([kept]).nodes[0].stopping
    ready = [conditions[0], {"type": "Ready", "status": "True", "message": "kubelet is posting ready status"}]
    kept = of_api("Node", {**document, "status": {"conditions": ready}})
    assert kept["status"] == {}
    assert not InventoryBuilder().inventory([kept]).nodes[0].stopping


def test_a_pod_whose_status_cannot_be_read_is_a_problem_and_the_others_count() -> None:
    """Whatever no reader foresaw: here an address that is no text and refuses to be one."""

    class Odd:
        def __str__(self) -> str:
            raise ZeroDivisionError("odd")

    def running(name: str, ip: object) -> dict[str, object]:
        metadata = {"name": name, "namespace": "prod", "uid": name}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": {"podIPs": [{"ip": ip}]}}

    inventory = InventoryBuilder().inventory([running("a", Odd()), running("b", "10.1.0.5")])
    assert [pod.name for pod in inventory.running] == ["b"]
    assert [str(p) for p in inventory.problems] == ["Pod prod/a: cannot be read: ZeroDivisionError: odd"]
