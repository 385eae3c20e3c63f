"""Hostile objects in a cluster's API: the API refuses each, or each agent names it; the traffic of others goes on.

The same for files is in test_hostile_input.py, and each field with each hostile value in tests/unit/test_fuzz.py.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ..lab import documents, topology
from ..lab.apiserver.client import Cluster, path_of
from ..lab.cnirun import CniError
from ..lab.documents import Document
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.silence import longest
from ..lab.topology import EGRESS_LABEL, VIRTUAL
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

EVIL = "\x1b[2J\nnode g1 is healthy\r\u202e"
"""Text that would clear a terminal and forge a line of a log."""
LONG = "x." * 127 + "x"
"""The longest name of an object, 255 characters: two more than an API server permits."""
OTHERS = {"app": "somebody-else"}
"""Labels that no pod of the lab has."""


def changed(document: Document, **parts: Any) -> Document:
    return {**document, **parts}


def gateway(name: str, *addresses: str, nodes: Any = EGRESS_LABEL) -> Document:
    made = documents.virtual_gateway(name, addresses or ["172.16.0.60"])
    return changed(made, spec={**made["spec"], "nodeSelector": nodes})


def policy(name: str, **spec: Any) -> Document:
    made = documents.policy(name, GATEWAY, OTHERS, ["203.0.113.0/24"])
    return changed(made, spec={**made["spec"], **spec})


def node(name: str, *addresses: Any, **spec: Any) -> Document:
    listed = [{"type": "InternalIP", "address": address} for address in addresses]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": spec,
        "status": {"addresses": listed},
    }


def nested(depth: int) -> Any:
    return {"x": nested(depth - 1)} if depth else "x"


def labelled(document: Document, labels: Any) -> Document:
    return changed(document, metadata={**document["metadata"], "labels": labels})


def annotated(document: Document) -> Document:
    notes = {"note": EVIL * 100, f"{'x' * 63}/{'y' * 63}": "\0", "drained": "true"}
    return changed(document, metadata={**document["metadata"], "annotations": notes})


REFUSED = [
    changed(gateway("spec-is-a-list"), spec=[1]),
    changed(gateway("spec-is-null"), spec=None),
    changed(policy("spec-is-text"), spec="x" * 5000),
    policy("selectors-are-a-map", selectors={"podSelector": {}}),
    policy("name-is-a-number", egressGatewayName=2**64),
    gateway("prefix", "172.16.0.60/24"),
    gateway("vip-twice", "172.16.0.61", "172.16.0.61"),
    policy("host-bits", destinationCIDRs=["203.0.113.1/24"]),
    policy("digits", destinationCIDRs=[f"10.0.0.0/{'9' * 5000}"]),
]
"""Objects that the definitions of our kinds refuse."""
GIANT = [
    policy("many-prefixes", destinationCIDRs=["10.0.0.0/8"] * 300),
    policy("many-selectors", selectors=[{"podSelector": {"matchLabels": OTHERS}}] * 100),
    gateway("many-addresses", *(f"172.17.{n >> 8}.{n & 255}" for n in range(1, 300))),
]
NAMED = [
    gateway("selector-is-nested", nodes=nested(200)),
    gateway("selector-has-numbers", nodes={"matchLabels": {"role": 5}}),
    gateway("selector-is-evil", nodes={EVIL: EVIL}),
    # Names that come before those of the objects whose addresses they have.
    gateway("a-vip-of-another", VIRTUAL),
    gateway("vip-is-mapped", f"::ffff:{VIRTUAL}"),
    gateway("vip-is-a-loopback", "127.0.0.1"),
    gateway("vip-is-multicast", "224.0.0.1"),
    gateway("vip-of-a-node", "10.0.0.7"),
    gateway(LONG, "172.16.0.62"),
    policy("evil-gateway", egressGatewayName=EVIL),
    policy("evil-label", selectors=[{"podSelector": {"matchLabels": {EVIL: EVIL}}}]),
    policy(LONG),
    node("a-address-of-another", "10.0.0.21"),
    node("address-is-a-number", 5),
    node("address-is-mapped", "::ffff:10.0.0.21"),
    node("address-is-evil", EVIL),
    node("prefixes-are-a-number", "10.0.0.90", podCIDRs=5),
    node("prefixes-are-evil", "10.0.0.91", podCIDRs=[EVIL, "9" * 5000]),
    node(LONG, "10.0.0.92"),
]
"""Objects that the API of the lab stores. A real one refuses some more."""
HARMLESS = [
    annotated(gateway("a-note", "172.16.0.63")),
    annotated(policy("a-note")),
    annotated(node("a-note", "10.0.0.94")),
    labelled(node("labels-are-evil", "10.0.0.93"), {EVIL: EVIL}),
    labelled({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "evil"}}, {"x": EVIL * 100}),
]
"""Objects with hostile content where any text may be: in annotations, and in labels, which are only compared."""


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    objects = documents.virtual_ip([VIRTUAL], GATEWAY)
    with settled(
        "test_hostile_objects", topology.separate(workers=1), objects=objects, store="kubernetes"
    ) as made:
        yield made


def stored(cluster: Cluster, document: Document) -> bool:
    """Create an object, and return False if the API refuses it."""
    status, _ = cluster.ask("POST", path_of(document).rpartition("/")[0], document)
    assert status < http.client.INTERNAL_SERVER_ERROR
    return status < http.client.BAD_REQUEST


def identity(document: Document) -> str:
    """Return the name by which problems refer to an object."""
    return f"{document['kind']} {document['metadata']['name']}"


def unnamed(node: Node, documents: Sequence[Document]) -> list[str]:
    """Return the objects that no problem of a node names."""
    named = {problem["source"] for problem in node.agent.status()["problems"]}
    return sorted({*map(identity, documents)} - named)


def ready(cluster: Cluster, document: Document) -> str:
    """Return the status of the condition ``Ready`` of an object."""
    conditions = cluster.call("GET", path_of(document)).get("status", {}).get("conditions", [])
    return next((str(found["status"]) for found in conditions if found["type"] == "Ready"), "")


def processes(lab: Lab) -> dict[str, tuple[int, list[int]]]:
    return {name: (node.agent.pid, node.agent.keeper_pids()) for name, node in lab.nodes.items()}


@pytest.mark.parametrize("document", [*REFUSED, *GIANT], ids=identity)
def test_the_definitions_refuse_wrong_types_values_and_sizes(lab: Lab, document: Document) -> None:
    assert lab.cluster is not None
    assert not stored(lab.cluster, document)


def test_objects_that_are_stored_end_no_agent_and_disturb_no_other_gateway(lab: Lab) -> None:
    cluster = lab.cluster
    assert cluster is not None
    worker, before, master = lab.nodes["w1"], processes(lab), lab.wait_settled(GATEWAY)
    pod = worker.pod("talker", BACKEND)
    with lab.capture() as capture, lab.probing(pod) as probing:
        # First: a Node without an agent is among them, and the status of the others must not wait for it.
        harmless = [document for document in HARMLESS if stored(cluster, document)]
        made = [document for document in NAMED if stored(cluster, document)]
        assert len(made) > len(NAMED) / 2
        for node in lab.nodes.values():
            until(lambda n=node: not unnamed(n, made), f"{node.name} names each object", 20)  # type: ignore[misc]
            assert unnamed(node, harmless) == sorted(map(identity, harmless))
        probes = probing.stop()
        starts_or_is_refused(worker)
        assert worker.pod("later", BACKEND).request(SELECTED).address == VIRTUAL
        assert capture.sources(SELECTED) == {VIRTUAL}
    assert longest(probes).lost == 0
    assert {probe.address for probe in probes} == {VIRTUAL}
    assert (processes(lab), lab.wait_settled(GATEWAY)) == (before, master)
    ours = [document for document in made if document["kind"].startswith("Egress")]
    until(lambda: {ready(cluster, each) for each in ours} == {"False"}, "the status of each says so", 20)
    assert all(line.isprintable() for line in worker.egressctl("status").splitlines())
    for document in (*made, *harmless):
        cluster.delete(path_of(document))
    agents = [node.agent for node in lab.nodes.values()]
    until(lambda: not any(agent.status()["problems"] for agent in agents), "nothing is wrong any more", 20)


def starts_or_is_refused(node: Node) -> None:
    """Start a pod that a policy selects by one label, and that has another one which no API would store."""
    pod = node.new_pod("evil", {**BACKEND, EVIL: EVIL})
    try:
        pod.start()
        assert pod.request(SELECTED).address == VIRTUAL
    except CniError:
        pass
    finally:
        pod.stop()
