"""``egressctl diff``: directories of manifests and records of pods, no agent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cni.calls import attachments
from cni.calls.attachments import Attachment
from cni.kernel.netlink import netfilter
from cni.kernel.netlink.constants import TCP_CONNTRACK_TIME_WAIT
from gateway_agent.ctl.__main__ import main
from tests.fuzz.netlink import Answers
from tests.lab import documents
from tests.lab.documents import Document
from tests.unit.cni.kernel.netlink.listed_connections import TCP_CONNTRACK_ESTABLISHED, listed, listing, tcp

LISTED = [
    tcp("10.1.0.5", "203.0.113.9", TCP_CONNTRACK_ESTABLISHED),
    tcp("10.1.0.5", "203.0.113.9", TCP_CONNTRACK_TIME_WAIT),
    listed("10.1.0.5", "203.0.113.9"),
    listed("10.1.0.5", "198.51.100.1"),
    listed("10.1.0.6", "203.0.113.9"),
]


def node(name: str, number: int, labels: dict[str, str]) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"addresses": [{"type": "InternalIP", "address": f"10.0.0.{number}"}]},
    }


EGRESS = {"egress": "yes"}
NODES = [node("w1", 1, {}), node("g1", 2, EGRESS), node("g2", 3, EGRESS)]


def gateway(name: str, address: str) -> Document:
    made = documents.virtual_gateway(name, [address])
    made["spec"]["nodeSelector"] = EGRESS
    return made


OBJECTS = [
    gateway("partner", "172.16.0.50"),
    gateway("other", "172.16.0.60"),
    documents.policy("api", "partner", {"app": "api"}, ("203.0.113.0/24",)),
]


class Store:
    """The node w1 with its store, an edit of the store, and the records of its pods."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory, self.capsys = directory, capsys
        self.config = directory / "agent.yaml"
        path = directory / "manifests"
        self.config.write_text(
            f"nodeName: w1\nrunDir: {directory}\nstore: {{kind: files, path: {path}}}\n", encoding="utf-8"
        )
        self.write("manifests", [*NODES, *OBJECTS])
        for number, app in ((5, "api"), (6, "web")):
            record = Attachment(
                f"id{number}",
                "eth0",
                "",
                f"veth{number}",
                "prod",
                app,
                "",
                {"app": app},
                (f"10.1.0.{number}",),
            )
            attachments.write(directory, record)

    def write(self, name: str, content: list[Document]) -> Path:
        """Write the directory ``name`` with one file."""
        path = self.directory / name
        path.mkdir(exist_ok=True)
        (path / "all.yaml").write_text(yaml.safe_dump_all(content), encoding="utf-8")
        return path

    def diff(self, *content: Document) -> Any:
        """Return the answer of the command for an edit of the store to these objects."""
        path = self.write("edit", list(content))
        assert main(["--config", str(self.config), "diff", str(path), "-o", "json"]) == 0
        return json.loads(self.capsys.readouterr().out)


@pytest.fixture
def store(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Store:
    listings = [listing(LISTED, number) for number in (1, 2)]
    monkeypatch.setattr(netfilter, "opened", lambda: Answers(listings))
    return Store(tmp_path, capsys)


def test_nothing_changes(store: Store) -> None:
    assert store.diff(*NODES, *OBJECTS) == {"node": "w1", "pods": [], "egressIPs": [], "connections": 0}


def test_a_pod_gets_another_address_and_its_open_connections_there_end(store: Store) -> None:
    moved = documents.policy("api", "other", {"app": "api"}, ("203.0.113.0/24",))
    found = store.diff(*NODES, *OBJECTS[:2], moved)
    assert found["pods"] == [
        {
            "namespace": "prod",
            "name": "api",
            "node": "w1",
            "changes": [
                {
                    "destinations": ["203.0.113.0/24"],
                    "before": "partner 172.16.0.50",
                    "after": "other 172.16.0.60",
                }
            ],
            "connections": 2,
        }
    ]
    assert (found["egressIPs"], found["connections"]) == ([], 2)


def test_a_pod_is_let_go_and_another_is_selected(store: Store) -> None:
    swapped = documents.policy("api", "partner", {"app": "web"}, ("203.0.113.0/24",))
    found = store.diff(*NODES, *OBJECTS[:2], swapped)
    [(one, web), (two, api)] = [(pod["name"], pod["changes"][0]) for pod in found["pods"]][::-1]
    assert (one, web["before"], web["after"]) == ("web", "direct", "partner 172.16.0.50")
    assert (two, api["before"], api["after"]) == ("api", "partner 172.16.0.50", "direct")
    assert found["connections"] == 3


def test_only_the_destinations_that_an_edit_adds_are_shown(store: Store) -> None:
    wider = documents.policy("api", "partner", {"app": "api"}, ("203.0.113.0/24", "198.51.100.0/24"))
    [pod] = store.diff(*NODES, *OBJECTS[:2], wider)["pods"]
    assert [change["destinations"] for change in pod["changes"]] == [["198.51.100.0/24"]]
    assert pod["connections"] == 1


def test_addresses_come_and_go_and_change_their_nodes(store: Store) -> None:
    third = gateway("third", "172.16.0.70")
    nodes = [*NODES[:2], node("g2", 3, {})]
    rows = store.diff(*nodes, OBJECTS[0], third, OBJECTS[2])["egressIPs"]
    assert {row["ip"]: (row["change"], row["nodesBefore"], row["nodesAfter"]) for row in rows} == {
        "172.16.0.50": ("nodes", ["g1", "g2"], ["g1"]),
        "172.16.0.60": ("gone", ["g1", "g2"], []),
        "172.16.0.70": ("new", [], ["g1"]),
    }


def test_a_pod_of_another_node_is_named_if_it_has_a_document(store: Store) -> None:
    metadata = {"name": "far", "namespace": "prod", "labels": {"app": "api"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": "w2"}}
    store.write("manifests", [*NODES, *OBJECTS, pod])
    moved = documents.policy("api", "other", {"app": "api"}, ("203.0.113.0/24",))
    pods = store.diff(*NODES, *OBJECTS[:2], moved, pod)["pods"]
    assert [(each["name"], each["node"], each["connections"]) for each in pods] == [
        ("api", "w1", 2),
        ("far", "w2", None),
    ]


def test_the_text_names_what_it_does_not_count(store: Store) -> None:
    edit = store.write("edit", [*NODES, *OBJECTS[:2]])
    assert main(["--config", str(store.config), "diff", str(edit)]) == 0
    shown = store.capsys.readouterr()
    assert "partner 172.16.0.50" in shown.out
    assert "1 pod changes; open connections that would end on node w1: 2\n" in shown.out
    assert "connections of pods on other nodes are not counted" in shown.err


def test_an_invalid_edit_is_reported_as_validate_does(store: Store) -> None:
    edit = store.write("edit", [*NODES, OBJECTS[2]])
    outcomes = [
        (main(["--config", str(store.config), command, str(edit)]), store.capsys.readouterr())
        for command in ("diff", "validate")
    ]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] == 1


def test_a_file_alone_is_no_store(store: Store) -> None:
    file = store.write("edit", NODES) / "all.yaml"
    assert main(["--config", str(store.config), "diff", str(file)]) == 1
    assert "is no directory" in store.capsys.readouterr().err
