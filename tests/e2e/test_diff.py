"""``egressctl diff`` says before an edit what the edit then does: to a pod's address and to its open connections."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ..lab import documents, topology
from ..lab.lab import SELECTED, UNSELECTED, Lab
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

ADDRESS = "172.16.0.50"


@pytest.fixture
def lab(plugin: Path) -> Iterator[Lab]:
    with settled("test_diff", topology.separate(workers=1, gateways=2)) as made:
        yield made


def test_the_connections_that_it_counts_end_and_no_others(lab: Lab) -> None:
    node = lab.nodes["w1"]
    pod, bystander = node.pod("selected", BACKEND), node.pod("other", {"app": "other"})
    opened = [pod.connect(SELECTED), pod.connect(UNSELECTED), bystander.connect(UNSELECTED)]
    assert all(connection.echo("hello") for connection in opened)
    edit = lab.directory / "edit"
    shutil.copytree(node.manifests, edit)
    objects = documents.virtual_ip([ADDRESS], GATEWAY)
    (edit / "objects.yaml").write_text(yaml.safe_dump_all(objects))
    answer = json.loads(node.egressctl("diff", str(edit), "-o", "json"))
    [changed] = answer["pods"]
    assert (changed["name"], changed["connections"], answer["connections"]) == ("selected", 2, 2)
    assert [change["after"] for change in changed["changes"]] == [f"{GATEWAY} {ADDRESS}"]
    assert {row["ip"]: row["change"] for row in answer["egressIPs"]} == {"": "gone", ADDRESS: "new"}
    lab.publish("objects", objects)
    until(lambda: pod.request(SELECTED, 0.3).address == ADDRESS, "the edit counts")
    assert bystander.request(SELECTED).address == node.host.ip
    for connection in opened[:2]:
        with pytest.raises(OSError):
            connection.echo("still there")
    assert opened[2].echo("still there")
    for connection in opened:
        connection.close()
