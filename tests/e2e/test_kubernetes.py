"""A cluster as the store: what only it can do, and what an API server that fails must not do.

That a lab works with it as with files is seen where labs run with both (``test_basic_mode``, ``--every-store``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cni import contract
from gateway_agent.manifests.model import DRAIN

from ..lab import documents, topology
from ..lab.apiserver.client import Cluster
from ..lab.capture import Capture
from ..lab.cnirun import CniError
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.pod import Pod
from ..lab.silence import longest
from ..lab.topology import VIRTUAL
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled
from .metric_values import total

SOON_S = 1.0
"""Seconds within which a change of labels takes effect on a running pod."""
AT_ONCE = 8
GATEWAYS = "/apis/egress-gateway.io/v1alpha1/egressgateways"
POLICIES = "/apis/egress-gateway.io/v1alpha1/egressgatewaypolicies"
OTHER = {"app": "other"}
NOT_READY = {
    "type": "Ready",
    "status": "False",
    "reason": "KubeletNotReady",
    "message": "node is shutting down",
}
"""Condition that a kubelet writes while its machine is being shut down."""


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    objects = documents.virtual_ip([VIRTUAL], GATEWAY)
    with settled(
        "test_kubernetes", topology.separate(workers=1), objects=objects, store="kubernetes"
    ) as made:
        yield made


@pytest.fixture
def cluster(lab: Lab) -> Iterator[Cluster]:
    assert lab.cluster is not None
    yield lab.cluster
    lab.cluster.strike()
    lab.wait_settled(GATEWAY, 40)


@pytest.fixture
def node(lab: Lab) -> Iterator[Node]:
    node = lab.nodes["w1"]
    node.pods.clear()
    yield node
    for pod in node.pods.values():
        pod.stop()


@pytest.fixture
def capture(lab: Lab) -> Iterator[Capture]:
    with lab.capture() as witness:
        yield witness


@contextmanager
def away(lab: Lab) -> Iterator[None]:
    """Cut off the API server."""
    lab.cut("api")
    try:
        yield
    finally:
        lab.mend("api")


def master(lab: Lab) -> str:
    return lab.wait_settled(GATEWAY, 40)


def status(cluster: Cluster, path: str) -> dict[str, Any]:
    return dict(cluster.call("GET", path).get("status") or {})


def ready(cluster: Cluster, path: str) -> tuple[str, str]:
    for condition in status(cluster, path).get("conditions", []):
        return condition["status"], condition["reason"]
    return "", ""


def shown(pod: Pod) -> str:
    return pod.request(SELECTED, seconds=0.5).address


def test_a_policy_that_is_made_in_the_same_moment_as_its_pod(
    lab: Lab, cluster: Cluster, node: Node, capture: Capture
) -> None:
    for number in range(AT_ONCE):
        labels = {"app": f"new-{number}"}
        pod = node.new_pod(f"new-{number}", labels)
        cluster.apply(documents.policy(f"new-{number}", GATEWAY, labels))
        pod.start()
        assert shown(pod) == VIRTUAL
    assert capture.sources(SELECTED) == {VIRTUAL}
    for number in range(AT_ONCE):
        cluster.call("DELETE", f"{POLICIES}/new-{number}")


def test_labels_of_a_pod_that_runs(lab: Lab, cluster: Cluster, node: Node) -> None:
    pod = node.pod("relabelled", OTHER)
    assert shown(pod) == node.host.ip
    cluster.label("prod", "relabelled", {"app": "backend"})
    until(lambda: shown(pod) == VIRTUAL, "it is selected", SOON_S)
    cluster.label("prod", "relabelled", {"app": None})
    until(lambda: shown(pod) == node.host.ip, "it is not selected any more", SOON_S)


def test_a_pod_start_costs_two_small_requests(lab: Lab, cluster: Cluster, node: Node) -> None:
    before = cluster.requests()
    node.pod("counted", BACKEND)
    after = cluster.requests()
    asked = {
        what: count - before.get(what, 0) for what, count in after.items() if count != before.get(what, 0)
    }
    asked.pop("GET /api/v1/namespaces/prod/pods/counted", None)
    assert asked == {f"GET {POLICIES}": 1}


def test_a_pod_that_the_store_forgets_keeps_its_way(
    lab: Lab, cluster: Cluster, node: Node, capture: Capture
) -> None:
    pod = node.pod("forgotten", BACKEND)
    cluster.remove("prod", "forgotten")
    cluster.apply(documents.policy("another", GATEWAY, OTHER))
    until(lambda: "another" in {p["name"] for p in node.plan()["policies"]}, "the agent has followed")
    assert shown(pod) == VIRTUAL
    assert capture.sources(SELECTED) == {VIRTUAL}
    cluster.call("DELETE", f"{POLICIES}/another")


def test_the_status_names_the_master_and_each_change_is_an_event(lab: Lab, cluster: Cluster) -> None:
    before = master(lab)
    until(
        lambda: status(cluster, f"{GATEWAYS}/{GATEWAY}").get("activeNodeName") == before,
        "the status names it",
    )
    assert ready(cluster, f"{GATEWAYS}/{GATEWAY}") == ("True", "ElectionSucceedAndVirtualIPAnnounced")
    until(lambda: status(cluster, f"{GATEWAYS}/{GATEWAY}")["readyNodes"] == 3, "all are ready")
    lab.cut(before)
    try:
        after = until(lambda: another(lab, before), "a new master")
        until(
            lambda: status(cluster, f"{GATEWAYS}/{GATEWAY}")["activeNodeName"] == after, "the status names it"
        )
    finally:
        lab.mend(before)
    lab.wait_settled(GATEWAY, 40)

    def reported() -> list[str]:
        events = cluster.call("GET", "/api/v1/namespaces/default/events")["items"]
        return [
            e["message"] for e in events if (e["reason"], e["source"]["host"]) == ("MasterChanged", after)
        ]

    until(
        lambda: [message for message in reported() if f"{before} -> {after}" in message],
        "an Event tells of it",
    )
    assert ready(cluster, f"{POLICIES}/backend-to-{GATEWAY}") == ("True", "GatewayFound")


def test_a_gateway_that_no_node_can_serve_says_so(lab: Lab, cluster: Cluster) -> None:
    """Two of three voters are away: the third has no contact with a majority, and a worker writes."""
    before = master(lab)
    away = [before, next(name for name in ("g1", "g2", "g3") if name != before)]
    for name in away:
        lab.cut(name)
    try:
        until(
            lambda: ready(cluster, f"{GATEWAYS}/{GATEWAY}") == ("False", "ElectionFailed"),
            "its status says it",
            20,
        )
        assert status(cluster, f"{GATEWAYS}/{GATEWAY}")["activeNodeName"] == ""
    finally:
        for name in away:
            lab.mend(name)
    after = lab.wait_settled(GATEWAY, 40)
    until(
        lambda: status(cluster, f"{GATEWAYS}/{GATEWAY}")["activeNodeName"] == after, "the status names it", 20
    )


def test_a_policy_that_names_no_gateway_says_so(lab: Lab, cluster: Cluster) -> None:
    def reported() -> list[str]:
        events = cluster.call("GET", "/api/v1/namespaces/default/events")["items"]
        return [event["type"] for event in events if event["involvedObject"]["name"] == "lost"]

    cluster.apply(documents.policy("lost", "nowhere", OTHER))
    try:
        until(
            lambda: ready(cluster, f"{POLICIES}/lost") == ("False", "GatewayNotFound"), "its status says it"
        )
        until(lambda: reported() == ["Warning"], "an Event tells of it")
    finally:
        cluster.call("DELETE", f"{POLICIES}/lost")


def another(lab: Lab, before: str) -> str:
    now = lab.master(GATEWAY, asked="w1")
    return "" if now == before else now


@pytest.mark.parametrize("how", ["cut off", "hangs", "errors"])
def test_a_failover_while_the_api_is_away(
    lab: Lab, cluster: Cluster, node: Node, capture: Capture, how: str, request: pytest.FixtureRequest
) -> None:
    outage = request.config.getoption("--outage", default=0.0)
    before, errors = master(lab), total(node, "api_errors_total")
    running = node.pod("running", BACKEND)
    coming = node.new_pod("coming", BACKEND)
    until(lambda: known(node, coming), "the agent knows the pod that is to come")
    with away(lab) if how == "cut off" else struck(cluster, how):
        cluster.drop()
        began = time.monotonic()
        lab.cut(before)
        try:
            until(lambda: another(lab, before), "a new master")
            until(lambda: shown(running) == VIRTUAL, "traffic passes")
            coming.start()
            assert shown(coming) == VIRTUAL
            with pytest.raises(CniError) as refused:
                unknown(node).start()
            assert refused.value.code == contract.TRY_AGAIN_LATER
        finally:
            lab.mend(before)
        now = lab.wait_settled(GATEWAY, 40)
        epoch = epochs(lab)
        until(lambda: total(node, "api_errors_total") > errors, "failed requests are counted")
        while time.monotonic() < began + outage:
            assert (shown(running), shown(coming)) == (VIRTUAL, VIRTUAL)
    until(lambda: not troubles(lab), "all agents hear the API again", 60)
    assert (lab.wait_settled(GATEWAY, 40), epochs(lab)) == (now, epoch)
    assert capture.sources(SELECTED) == {VIRTUAL}


@contextmanager
def struck(cluster: Cluster, how: str) -> Iterator[None]:
    faults: dict[str, Any] = {"hang": True} if how == "hangs" else {"status": 500}
    cluster.strike(**faults)
    try:
        yield
    finally:
        cluster.strike()


def unknown(node: Node) -> Pod:
    """Return a pod that the API has learned of while it does not answer."""
    return node.new_pod("unknown", BACKEND)


def known(node: Node, pod: Pod) -> bool:
    """Return True if the agent's copy of the store has this pod: an earlier one may have had the same name."""
    kept = json.loads((node.agent.run_dir / "last-known.json").read_text())
    assert pod.attachment.cni_args is not None
    return pod.attachment.cni_args["K8S_POD_UID"] in {item["metadata"]["uid"] for item in kept["Pod"]}


def epochs(lab: Lab) -> set[int]:
    return {e["epoch"] for node in lab.nodes.values() for e in node.agent.status()["egressIPs"]}


def troubles(lab: Lab) -> list[str]:
    found = (problem for node in lab.nodes.values() for problem in node.agent.status()["problems"])
    return [problem["message"] for problem in found if problem["source"] == "Kubernetes API"]


def test_an_agent_that_starts_while_the_api_is_away(
    lab: Lab, cluster: Cluster, node: Node, capture: Capture
) -> None:
    before = master(lab)
    pod = node.pod("running", BACKEND)
    until(lambda: known(node, pod), "the agent has kept what it knows")
    with away(lab):
        for name in ("w1", before):
            lab.nodes[name].agent.kill()
            lab.nodes[name].agent.start()
        until(lambda: lab.master(GATEWAY) == before, "both are back", 20)
        assert shown(pod) == VIRTUAL
        pod.check()
    until(lambda: not troubles(lab), "all agents hear the API again", 60)
    assert master(lab) == before
    assert capture.sources(SELECTED) == {VIRTUAL}


def test_the_token_rotates(lab: Lab, cluster: Cluster, node: Node) -> None:
    (lab.directory / "token").write_text("another")
    cluster.drop()
    pod = node.pod("behind", BACKEND)
    assert shown(pod) == VIRTUAL
    until(lambda: not troubles(lab), "all agents read by the new token", 20)


def test_lost_history_changes_nothing(lab: Lab, cluster: Cluster, node: Node, capture: Capture) -> None:
    before, epoch = master(lab), epochs(lab)
    pod = node.pod("talking", BACKEND)
    cluster.compact()
    cluster.apply(documents.policy("later", GATEWAY, OTHER))
    until(lambda: "later" in {p["name"] for p in node.plan()["policies"]}, "the agent has followed", 10)
    assert shown(pod) == VIRTUAL
    assert (master(lab), epochs(lab)) == (before, epoch)
    cluster.call("DELETE", f"{POLICIES}/later")


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_a_pod_that_the_plugin_was_not_called_for(
    lab: Lab, cluster: Cluster, node: Node, capture: Capture, kind: str
) -> None:
    network = node.network(kind)
    pod = node.pod(f"before-{kind}", BACKEND, network=replace(network, plugins=network.plugins[:1]))
    with pytest.raises(OSError):
        shown(pod)
    cluster.runs("prod", pod.name, pod.address)
    until(lambda: shown(pod) == VIRTUAL, "it is found and tagged", 5)
    assert capture.sources(SELECTED) == {VIRTUAL}
    cluster.label("prod", pod.name, {"app": "other"})
    until(lambda: shown(pod) == node.host.ip, "it is not selected any more", SOON_S)
    pod.stop()
    until(lambda: pod.name not in attached(node), "nothing is left of it")


def test_a_pod_that_cannot_be_found_is_named(lab: Lab, cluster: Cluster, node: Node) -> None:
    cluster.run("prod", "nowhere", node.name, BACKEND)
    cluster.runs("prod", "nowhere", "10.244.1.250")
    until(
        lambda: "pod prod/nowhere" in {p["source"] for p in node.agent.status()["problems"]},
        "status names it",
        10,
    )
    cluster.remove("prod", "nowhere")
    until(lambda: not node.agent.status()["problems"], "nothing is wrong any more")


def attached(node: Node) -> set[str]:
    return {row["name"] for row in node.agent.call("pods")["pods"]}


@pytest.mark.parametrize(
    ("port", "part", "reported", "taken_back"),
    [
        (9901, "", {"spec": {"unschedulable": True}}, {"spec": {"unschedulable": False}}),
        (
            9902,
            "",
            {"metadata": {"annotations": {DRAIN: "true"}}},
            {"metadata": {"annotations": {DRAIN: None}}},
        ),
        (9903, "/status", {"status": {"conditions": [NOT_READY]}}, {"status": {"conditions": []}}),
    ],
    ids=["cordoned", "drained", "shut down"],
)
def test_a_node_that_is_to_give_way_hands_over_and_loses_nothing(
    lab: Lab, cluster: Cluster, node: Node, port: int, part: str, reported: Any, taken_back: Any
) -> None:
    before = master(lab)
    lab.serve("outside", port)
    pod = node.pod("talking", BACKEND)
    with lab.probing(pod, port) as probing:
        cluster.call("PATCH", f"/api/v1/nodes/{before}{part}", reported)
        try:
            after = until(lambda: another(lab, before), "another master")
            [why] = [m["reason"] for m in lab.nodes[before].agent.status()["members"] if m["node"] == before]
            assert why.startswith("its node ")
        finally:
            cluster.call("PATCH", f"/api/v1/nodes/{before}{part}", taken_back)
        assert longest(probing.stop()).lost == 0
    assert lab.wait_settled(GATEWAY, 40) == after
