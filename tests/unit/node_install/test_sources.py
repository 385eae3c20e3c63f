"""The files that a node gets, read and checked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from gateway_agent.node_install import sources
from gateway_agent.node_install.services import Failed
from tests.lab import documents, topology

HERE = os.uname().nodename.lower()
KEY = b"a key of sixteen bytes\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory with a store of two nodes, one of them this machine; the node has nothing yet."""
    monkeypatch.setattr(sources, "DEFAULT_PATH", tmp_path / "etc" / "agent.yaml")
    (tmp_path / "store").mkdir()
    write(tmp_path, HERE, "other")
    (tmp_path / "key").write_bytes(KEY)
    text = {"store": {"kind": "files", "path": str(tmp_path / "etc" / "manifests")},
            "cluster": {"keyFile": str(tmp_path / "etc" / "cluster.key")}}  # fmt: skip
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(text))
    return tmp_path


def write(place: Path, *names: str) -> None:
    nodes = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": dict(topology.EGRESS_LABEL)},
         "status": {"addresses": [{"type": "InternalIP", "address": f"192.0.2.{number}"}]}}
        for number, name in enumerate(names, 1)
    ]  # fmt: skip
    objects = [*nodes, *documents.basic_mode("eth0", "partner")]
    (place / "store" / "all.yaml").write_text(yaml.safe_dump_all(objects))


def test_a_first_installation_gets_all_three(place: Path) -> None:
    read = sources.read(place / "agent.yaml", place / "store", place / "key")
    assert {path.relative_to(place / "etc").as_posix(): mode for path, (_, mode) in read.files.items()} == {
        "agent.yaml": 0o644, "manifests/all.yaml": 0o644, "cluster.key": 0o600,
    }  # fmt: skip
    assert read.files[place / "etc" / "cluster.key"][0] == KEY
    assert [gateway.name for gateway in read.inventory.gateways] == ["partner"]


def test_a_node_that_has_all_of_them_keeps_them(place: Path) -> None:
    for path, (content, _) in sources.read(
        place / "agent.yaml", place / "store", place / "key"
    ).files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    read = sources.read(None, None, None)
    assert read.files == {}
    assert read.config.node_name == HERE


def test_a_node_alone_gets_a_key_of_its_own(place: Path) -> None:
    write(place, HERE)
    [first, second] = [
        sources.read(place / "agent.yaml", place / "store", None).files[place / "etc" / "cluster.key"]
        for _ in range(2)
    ]
    assert first != second
    assert len(bytes.fromhex(first[0].decode())) == 32 and first[1] == 0o600


@pytest.mark.parametrize(
    ("config", "store", "key", "message", "hint"),
    [
        (False, False, True, "there is no", "--config FILE"),
        (True, True, False, "there is no", "--key FILE"),
    ],
)
def test_what_is_missing_is_named(
    config: bool, store: bool, key: bool, message: str, hint: str, place: Path
) -> None:
    with pytest.raises(Failed, match=message) as failed:
        sources.read(
            place / "agent.yaml" if config else None,
            place / "store" if store else None,
            place / "key" if key else None,
        )
    assert hint in failed.value.hint


def test_a_node_that_is_not_in_the_inventory_is_refused(place: Path) -> None:
    write(place, "one", "other")
    with pytest.raises(Failed, match=f"no Node is named {HERE}"):
        sources.read(place / "agent.yaml", place / "store", place / "key")


def test_problems_of_the_files_are_those_of_validate(place: Path) -> None:
    (place / "store" / "all.yaml").write_text("kind: EgressGateway\napiVersion: egress-gateway.io/v1alpha1\n")
    with pytest.raises(Failed, match="metadata: is required"):
        sources.read(place / "agent.yaml", place / "store", place / "key")
    (place / "agent.yaml").write_text("unknown: 1\n")
    with pytest.raises(Failed, match="unknown"):
        sources.read(place / "agent.yaml", place / "store", place / "key")


def test_a_short_key_is_refused(place: Path) -> None:
    (place / "key").write_text("short")
    with pytest.raises(Failed, match="16 bytes"):
        sources.read(place / "agent.yaml", place / "store", place / "key")
