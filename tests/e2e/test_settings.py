"""Settings that must be the same on all nodes: a node with others is named, and serves nobody if it could not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ..lab import topology
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with settled("test_settings", topology.separate(workers=1, gateways=2)) as made:
        yield made


def configure(node: Node, tunnel_port: int) -> None:
    content = yaml.safe_load(node.agent.config.read_text())
    content["tunnel"] = {"port": tunnel_port}
    node.agent.config.write_text(yaml.safe_dump(content))
    node.agent.restart()


def problems(node: Node) -> str:
    return json.dumps(node.agent.status()["problems"])


def names_the_difference(node: Node, odd: Node) -> bool:
    mine, other = ("4800", "4799") if node is odd else ("4799", "4800")
    return f"tunnel.port is {mine} on this node ({node.name}) and {other} on " in problems(node)


def test_an_egress_node_with_another_tunnel_port_hands_over_and_is_named(lab: Lab) -> None:
    odd = lab.nodes[lab.wait_settled(GATEWAY)]
    pod = lab.nodes["w1"].pod("selected", BACKEND)
    configure(odd, 4800)
    until(
        lambda: "not that of most nodes" in json.dumps(odd.agent.status()["members"]),
        "it says that it is unfit",
    )
    until(lambda: lab.master(GATEWAY) not in ("", odd.name), "another node is master")
    assert pod.request(SELECTED).address == lab.nodes[lab.master(GATEWAY)].host.egress_ip
    until(lambda: all(names_the_difference(node, odd) for node in lab.nodes.values()), "all nodes name it")
    configure(odd, 4799)
    until(lambda: not any("tunnel.port" in problems(node) for node in lab.nodes.values()), "all agree again")
