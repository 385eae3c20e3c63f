"""``egressctl push`` between real agents: one node has the edit, and all nodes follow it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..lab import documents, topology
from ..lab.agent import EGRESSCTL
from ..lab.documents import Document
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.pod import Pod
from ..lab.topology import Host, Interface
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

ADDRESSES = ("172.16.0.50", "172.16.0.51", "172.16.0.52")


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with settled("test_push", topology.separate(workers=2, gateways=2)) as made:
        yield made


class Operator:
    """Edits a copy of the manifests and pushes it."""

    def __init__(self, lab: Lab, name: str = "edit") -> None:
        self.lab = lab
        self.directory = lab.directory / name
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.copytree(lab.nodes["w1"].manifests, self.directory)

    def write(self, name: str, content: Sequence[Document]) -> None:
        (self.directory / f"{name}.yaml").write_text(yaml.safe_dump_all(content, sort_keys=False))

    def push(self, node: str = "w1", *options: str) -> tuple[int, dict[str, Any]]:
        """Return exit code and answer of a push on a node."""
        where = self.lab.nodes[node]
        program = (
            str(EGRESSCTL),
            "--config",
            str(where.agent.config),
            "-o",
            "json",
            "push",
            str(self.directory),
        )
        done = subprocess.run(
            where.machine.command(*program, *options), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)


def leaves_by(pod: Pod, address: str) -> bool:
    return pod.request(SELECTED, 0.3).address == address


def problems(node: Node) -> list[dict[str, str]]:
    return [each for each in node.agent.status()["problems"] if each["source"] == "manifests"]


def same(lab: Lab) -> bool:
    """Return True if all nodes have the same manifests."""
    return len({frozenset(content(node).items()) for node in lab.nodes.values()}) == 1


def outcomes(answer: dict[str, Any]) -> dict[str, str]:
    return {row["node"]: row["outcome"] for row in answer["nodes"]}


def content(node: Node) -> dict[str, str]:
    return {path.name: path.read_text() for path in node.manifests.iterdir() if path.suffix == ".yaml"}


def group(node: Node) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return exit code and rows of ``egressctl status --all``."""
    program = str(EGRESSCTL), "--config", str(node.agent.config), "-o", "json", "status", "--all"
    message = node.machine.command(*program)
    done = subprocess.run(message, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout, done.stderr
    return done.returncode, {row["node"]: row for row in json.loads(done.stdout)["nodes"]}


def test_each_node_shows_how_all_are(lab: Lab) -> None:
    def all_well() -> bool:
        return all(group(node)[0] == 0 for node in lab.nodes.values())

    until(all_well, "all nodes are well, as each of them shows")
    for node in lab.nodes.values():
        _, rows = group(node)
        assert rows.keys() == lab.nodes.keys()
        held = {name: set(row["held"]) for name, row in rows.items() if row["held"]}
        status = node.agent.status()["egressIPs"]
        assert held == {each["master"]: {each["ip"]} for each in status}
    lab.nodes["w2"].agent.kill()
    code, rows = group(lab.nodes["w1"])
    assert (code, rows["w2"]["verdict"], rows["w2"]["reason"]) == (3, "no answer", "Connection refused")
    assert rows["g1"]["ok"]
    lab.nodes["w2"].agent.start()
    until(all_well, "all nodes are well again")


def test_an_edit_of_one_node_is_in_force_on_all(lab: Lab) -> None:
    pods = [lab.nodes[name].pod(f"pod-{name}", BACKEND) for name in ("w1", "w2")]
    operator = Operator(lab)
    operator.write("objects", documents.virtual_ip(ADDRESSES[:1], GATEWAY))
    code, answer = operator.push()
    assert (code, outcomes(answer)) == (0, dict.fromkeys(lab.nodes, "applied"))
    for pod in pods:
        until(partial(leaves_by, pod, ADDRESSES[0]), "the edit counts there")
    assert same(lab)


def test_a_node_that_was_away_gets_the_newest_set_when_it_is_back(lab: Lab) -> None:
    operator, away = Operator(lab), lab.nodes["w2"]
    lab.cut("w2")
    operator.write("objects", documents.virtual_ip(ADDRESSES[1:2], GATEWAY))
    code, answer = operator.push()
    assert (code, answer["failed"], outcomes(answer)["w2"]) == (1, ["w2"], "unreachable")
    assert content(away)["objects.yaml"] != content(lab.nodes["w1"])["objects.yaml"]
    lab.mend("w2")
    until(lambda: same(lab), "it has the newest set", 30)
    assert not problems(away)


def test_a_node_that_starts_gets_the_newest_set(lab: Lab) -> None:
    operator, away = Operator(lab), lab.nodes["w2"]
    away.agent.kill()
    operator.write("objects", documents.virtual_ip(ADDRESSES[:1], GATEWAY))
    code, answer = operator.push("g1")
    assert (code, outcomes(answer)["w2"]) == (1, "unreachable")
    away.agent.start()
    until(lambda: same(lab), "it has the newest set", 30)


def test_an_invalid_set_is_not_sent(lab: Lab) -> None:
    operator = Operator(lab)
    before = content(lab.nodes["w2"])
    operator.write("objects", documents.virtual_ip(["172.16.0.300"], GATEWAY))
    reported = []
    for command in ("push", "validate"):
        program = (
            str(EGRESSCTL),
            "--config",
            str(lab.nodes["w1"].agent.config),
            command,
            str(operator.directory),
        )
        done = subprocess.run(
            lab.nodes["w1"].machine.command(*program), capture_output=True, text=True, timeout=60, check=False
        )
        reported.append((done.returncode, done.stdout))
    assert reported[0] == reported[1]
    assert reported[0][0] == 1
    assert content(lab.nodes["w2"]) == before


def test_a_directory_that_was_edited_by_hand_is_not_overwritten_but_by_force(lab: Lab) -> None:
    operator, edited = Operator(lab), lab.nodes["w2"]
    path = edited.manifests / "objects.yaml"
    path.write_text("# by hand\n" + path.read_text())
    operator.write("objects", documents.virtual_ip(ADDRESSES[1:2], GATEWAY))
    code, answer = operator.push()
    assert (code, outcomes(answer)["w2"]) == (1, "edited")
    assert path.read_text().startswith("# by hand")
    until(
        lambda: any("edited by hand: objects.yaml" in each["message"] for each in problems(edited)),
        "it says so",
    )
    code, answer = operator.push("w1", "--force", "--to", "w2")
    assert (code, outcomes(answer)) == (0, {"w2": "applied"})
    assert same(lab)
    assert operator.push()[0] == 0
    until(lambda: not problems(edited), "nothing is wrong")


def test_of_two_pushes_at_once_one_is_in_force_on_all(lab: Lab) -> None:
    operators = [Operator(lab), Operator(lab, "other-edit")]
    for operator, address in zip(operators, ADDRESSES[:2], strict=True):
        operator.write("objects", documents.virtual_ip([address], GATEWAY))
        operator.write("extra", [documents.policy(f"only-{address[-2:]}", GATEWAY, {"app": "none"})])
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda pair: pair[0].push(pair[1]), zip(operators, ("w1", "g2"), strict=True)))
    until(lambda: same(lab), "all have one of them", 30)
    pushed = [
        {path.name: path.read_text() for path in operator.directory.iterdir()} for operator in operators
    ]
    assert content(lab.nodes["w2"]) in pushed


def test_a_set_for_some_nodes_goes_to_no_other(lab: Lab) -> None:
    operator = Operator(lab)
    before = content(lab.nodes["w1"])
    operator.write("objects", documents.virtual_ip(ADDRESSES[2:], GATEWAY))
    code, answer = operator.push("w1", "--to", "w2")
    assert (code, outcomes(answer)) == (0, {"w2": "applied"})
    assert content(lab.nodes["w1"]) == before != content(lab.nodes["w2"])
    # Other nodes ask this one within a few seconds. The next push is for all, and is newer.
    code, answer = operator.push("w1")
    assert (code, outcomes(answer)) == (0, {**dict.fromkeys(lab.nodes, "applied"), "w2": "unchanged"})
    assert same(lab)


def test_a_node_with_another_key_neither_gives_nor_takes(lab: Lab) -> None:
    operator, stranger = Operator(lab), lab.nodes["w2"]
    key = lab.directory / "other.key"
    key.write_text("another key of some length\n")
    config = stranger.agent.config
    good = config.read_text()
    config.write_text(good.replace(str(lab.key), str(key)))
    stranger.agent.restart()
    try:
        operator.write("objects", documents.virtual_ip(ADDRESSES[:1], GATEWAY))
        code, answer = operator.push()
        assert (code, answer["failed"]) == (1, ["w2"])
        assert "key" in next(row["detail"] for row in answer["nodes"] if row["node"] == "w2")
        assert content(stranger)["objects.yaml"] != content(lab.nodes["w1"])["objects.yaml"]
    finally:
        config.write_text(good)
        stranger.agent.restart()
    until(lambda: same(lab), "with the right key it takes the set", 30)


def test_a_set_that_is_too_large_is_refused_with_a_reason(lab: Lab) -> None:
    operator = Operator(lab)
    (operator.directory / "large.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\n" + "# comment\n" * 300_000
    )
    program = (str(EGRESSCTL), "--config", str(lab.nodes["w1"].agent.config), "push", str(operator.directory))
    done = subprocess.run(
        lab.nodes["w1"].machine.command(*program), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "2 MiB" in done.stdout + done.stderr
    assert same(lab)


def test_a_node_that_joins_with_a_copy_of_some_age_gets_the_newest_set(lab: Lab) -> None:
    operator = Operator(lab)
    joining = Host("w3", (Interface("eth0", "nodes", "10.0.0.23/24"),), "10.0.0.1", {}, 3, forwards=True)
    hosts = [*(node.host for node in lab.nodes.values()), joining]
    operator.write("nodes", [documents.node(host) for host in hosts])
    assert operator.push()[0] == 0
    lab.add_host(joining)
    node = lab.nodes["w3"]
    shutil.rmtree(node.manifests)
    shutil.copytree(lab.nodes["w1"].manifests, node.manifests)
    operator.write("objects", documents.virtual_ip(ADDRESSES[1:2], GATEWAY))
    until(lambda: any(each["name"] == "w3" for each in lab.nodes["w1"].plan()["nodes"]), "it is expected")
    code, answer = operator.push()
    assert (code, answer["failed"]) == (1, ["w3"])
    node.agent.start()
    until(lambda: same(lab), "it has the newest set", 30)
    assert not problems(node)


def test_it_works_between_nodes_with_ipv6_addresses_only(plugin: Path) -> None:
    with settled("test_push-ipv6", topology.ipv6_underlay(workers=1, gateways=2)) as lab:
        operator = Operator(lab)
        operator.write("extra", [documents.policy("extra", GATEWAY, {"app": "none"})])
        code, answer = operator.push()
        assert (code, outcomes(answer)) == (0, dict.fromkeys(lab.nodes, "applied"))
        assert same(lab)
