"""A cluster that has our kinds in the group of the Deckhouse Kubernetes Platform (``store.apiGroup``)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ..lab import documents, topology
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.topology import VIRTUAL
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

GROUP = "network.deckhouse.io"
GATEWAYS = f"/apis/{GROUP}/v1alpha1/egressgateways"
POLICIES = f"/apis/{GROUP}/v1alpha1/egressgatewaypolicies"


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    objects = documents.virtual_ip([VIRTUAL], GATEWAY)
    machines = topology.separate(workers=1, gateways=2)
    with settled("test_kubernetes_group", machines, objects=objects, store="kubernetes", group=GROUP) as made:
        yield made


def test_a_selected_pod_is_seen_by_the_virtual_address(lab: Lab) -> None:
    node = lab.nodes["w1"]
    with lab.capture() as capture:
        assert node.pod("backend", BACKEND).request(SELECTED).address == VIRTUAL
        assert capture.sources(SELECTED) == {VIRTUAL}
    assert node.pod("other", {"app": "other"}).request(SELECTED).address == node.host.ip


def test_each_node_shows_how_all_are(lab: Lab) -> None:
    def all_well(node: Node) -> bool:
        rows = {row["node"]: row["ok"] for row in node.agent.call("group")["nodes"]}
        return rows == dict.fromkeys(lab.nodes, True)

    for node in lab.nodes.values():
        until(partial(all_well, node), "all are well, as it shows")


@pytest.mark.parametrize("name", ["w1", "g1", "g2"])
def test_whois_joins_what_worker_and_master_know(lab: Lab, name: str) -> None:
    """On this store, too, each node finds the pod of an open connection: the master knows only the port outside."""
    pod = lab.nodes["w1"].pod(f"held-{name}", BACKEND)
    master = lab.nodes[lab.wait_settled(GATEWAY)]
    held = pod.connect(SELECTED)
    try:
        options = (
            "-p",
            "tcp",
            "--state",
            "ESTABLISHED",
            "--orig-port-dst",
            str(SELECTED),
            "--reply-dst",
            VIRTUAL,
        )
        [line] = master.machine.run("conntrack", "-L", *options).splitlines()
        shown = line.rpartition("dport=")[2].split()[0]
        found = json.loads(lab.nodes[name].egressctl("-o", "json", "whois", f"{VIRTUAL}:{shown}"))
    finally:
        held.close()
    [one] = found["connections"]
    assert (one["open"], one["pod"], one["node"], one["by"]) == (True, f"held-{name}", "w1", master.name)
    assert not found["silent"]


def test_status_and_events_are_of_that_group(lab: Lab) -> None:
    cluster = lab.cluster
    assert cluster is not None

    def status(path: str) -> dict[str, object]:
        return dict(cluster.call("GET", path).get("status") or {})

    master = lab.wait_settled(GATEWAY)
    until(
        lambda: status(f"{GATEWAYS}/{GATEWAY}").get("activeNodeName") == master, "the status names the master"
    )
    until(lambda: status(f"{POLICIES}/backend-to-{GATEWAY}").get("conditions"), "the policy has a condition")
    cluster.apply(documents.of_group(documents.policy("lost", "nowhere", {"app": "lost"}), GROUP))
    until(lambda: cluster.events("GatewayNotFound"), "an Event tells of a policy without a gateway")
    until(lambda: cluster.events("MasterChanged"), "an Event tells of the first master")
    assert {event["involvedObject"]["apiVersion"] for event in cluster.events()} == {f"{GROUP}/v1alpha1"}


def test_objects_of_the_other_group_count_for_nothing(lab: Lab) -> None:
    cluster = lab.cluster
    assert cluster is not None
    cluster.apply(documents.policy("elsewhere", GATEWAY, {"app": "elsewhere"}))
    cluster.apply(documents.of_group(documents.policy("here", GATEWAY, {"app": "here"}), GROUP))
    node = lab.nodes["w1"]
    until(lambda: "here" in {p["name"] for p in node.plan()["policies"]}, "the agent has followed")
    assert "elsewhere" not in {p["name"] for p in node.plan()["policies"]}
