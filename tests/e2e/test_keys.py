"""The cluster's key is replaced while packets flow; if it is missing, no node makes one of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway_agent.lease.messages.keys import Key

from ..lab import topology
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.silence import longest
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

OLD, NEW = b"the first key of this lab, nothing else", b"the second key of this lab, nothing else"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    write(directory / "cluster.key", OLD)
    write(directory / "previous.key", OLD)
    return directory


@pytest.fixture(scope="module")
def lab(plugin: Path, keys: Path) -> Iterator[Lab]:
    accepted = [str(keys / "previous.key"), str(keys / "next.key")]
    options = {"cluster": {"keyFile": str(keys / "cluster.key"), "acceptKeyFiles": accepted}}
    with settled("test_keys", topology.separate(workers=1, gateways=2), options) as made:
        yield made


def write(path: Path, content: bytes) -> None:
    draft = path.with_suffix(".draft")
    draft.touch(mode=0o600)
    draft.write_bytes(content)
    os.replace(draft, path)


def shown(node: Node) -> Any:
    return json.loads(node.egressctl("-o", "json", "key"))


def problems(node: Node) -> str:
    return json.dumps(node.agent.status()["problems"])


def names_missing(node: Node) -> bool:
    return "cluster key is missing" in problems(node)


def signing_keys(lab: Lab) -> set[str]:
    """Return the fingerprints that the nodes sign with, as all of them hear it."""
    answers = [shown(node) for node in lab.nodes.values()]
    return {answer["signs"] for answer in answers} | {
        p["signs"] for answer in answers for p in answer["peers"]
    }


def test_a_key_is_replaced_without_a_lost_probe_or_a_new_master(lab: Lab, keys: Path) -> None:
    old, new = Key.parse(OLD).fingerprint, Key.parse(NEW).fingerprint
    master, nodes = lab.wait_settled(GATEWAY), list(lab.nodes.values())
    epoch = nodes[0].agent.status()["egressIPs"][0]["epoch"]
    pod = lab.nodes["w1"].pod("rotating", BACKEND)
    until(lambda: signing_keys(lab) == {old}, "all nodes sign with the first key")
    assert pod.request(SELECTED).address == lab.nodes[master].host.egress_ip
    with lab.probing(pod) as probing:
        write(keys / "next.key", NEW)
        until(lambda: all(set(shown(n)["accepts"]) == {old, new} for n in nodes), "all accept the second key")
        write(keys / "cluster.key", NEW)
        until(lambda: signing_keys(lab) == {new}, "all nodes sign with the second key")
        assert "step 3 of 3" in shown(nodes[0])["next"]
        (keys / "previous.key").unlink()
        until(lambda: all(shown(n)["accepts"] == [new] for n in nodes), "nobody accepts the first key")
        until(lambda: all(shown(n)["next"].startswith("nothing") for n in nodes), "nothing is left to do")
        probes = probing.stop()
    assert longest(probes).lost == 0
    after = nodes[0].agent.status()["egressIPs"][0]
    assert (after["master"], after["epoch"]) == (master, epoch)
    assert not any("signs with a key" in problems(node) for node in nodes)
    assert "SIGNS WITH" in nodes[0].egressctl("key")


def test_a_missing_key_is_named_and_never_made_in_a_cluster(lab: Lab, keys: Path) -> None:
    content = (keys / "cluster.key").read_bytes()
    master = lab.wait_settled(GATEWAY)
    (keys / "cluster.key").unlink()
    try:
        worker = lab.nodes["w1"]
        worker.agent.kill()
        worker.agent.start()
        until(worker.agent.answers, "the agent of w1 answers")
        for node in lab.nodes.values():
            until(partial(names_missing, node), f"{node.name} names it")
        assert not (keys / "cluster.key").exists()
        assert lab.wait_settled(GATEWAY) == master, "the keepers go on with the key that they have read"
    finally:
        write(keys / "cluster.key", content)
    until(lambda: not any(names_missing(node) for node in lab.nodes.values()), "it is back")
