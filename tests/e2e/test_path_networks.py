"""The proof of a node's path in networks of other kinds: a closed node is named, and an open one is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from ..lab import documents, topology
from ..lab.documents import Document
from ..lab.lab import Lab
from ..lab.node import Node
from ..lab.topology import OUTSIDE, VIRTUAL, Topology
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled
from .path_reports import NAMED_S, examined, reason_of

CLOSE, OPEN = ("iptables", "-P", "FORWARD", "DROP"), ("iptables", "-P", "FORWARD", "ACCEPT")


def objects(sync: bool = False, routing: dict[str, object] | None = None) -> list[Document]:
    shown = documents.virtual_gateway(GATEWAY, [VIRTUAL], ["eth1"], connection_sync=sync)
    if routing:
        shown["spec"]["routing"] = routing
    return [shown, documents.policy("backend", GATEWAY, BACKEND, [f"{OUTSIDE}/32"])]


@dataclass(frozen=True)
class Network:
    machines: Topology
    objects: Sequence[Document]
    settings: Sequence[str] = ()
    """Settings of the kernel of each egress node."""


STRICT = ("net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.eth0.rp_filter=1", "net.ipv4.conf.eth1.rp_filter=1")
NETWORKS = {
    "IPv6 underlay": Network(topology.ipv6_underlay(workers=1, gateways=2), objects()),
    "connectionSync": Network(topology.separate(workers=1, gateways=2), objects(sync=True)),
    "own next hop": Network(topology.two_routers(gateways=2), objects(routing={"nextHops": ["172.16.0.1"]})),
    "strict source check": Network(topology.separate(workers=1, gateways=2), objects(), STRICT),
    "strict source check, own next hop": Network(
        topology.two_routers(gateways=2), objects(routing={"nextHops": ["172.16.0.1"]}), STRICT
    ),
}


@pytest.fixture(scope="module", params=NETWORKS)
def lab(request: pytest.FixtureRequest, plugin: Path) -> Iterator[Lab]:
    network = NETWORKS[request.param]
    name = f"test_path_networks-{request.param.replace(' ', '-')}"
    with settled(name, network.machines, objects=network.objects) as made:
        for node in made.nodes.values():
            if node.host.is_egress and network.settings:
                node.machine.run("sysctl", "-qw", *network.settings)
                # Until the agent has followed, the kernel drops what comes by the tunnels.
                until(partial(takes_any_source, node), f"{node.name} has set its tunnels", 20)
        yield made


def takes_any_source(node: Node) -> bool:
    """Return True if the check of sources is loose on all tunnels of a node."""
    found = node.machine.run("sh", "-c", "cat /proc/sys/net/ipv4/conf/egw-*/rp_filter").split()
    return set(found) == {"2"}


def test_a_closed_node_is_named_and_another_one_serves(lab: Lab) -> None:
    before = lab.wait_settled(GATEWAY)
    machine = lab.nodes[before].machine
    for node in ("g1", "g2"):
        until(lambda n=node: reason_of(lab, n) == "", f"{node} is ready", 20)  # type: ignore[misc]
        [found] = examined(lab, node)
        assert found.startswith("open to eth1, packets of up to "), found
    lab.serve("beyond" if "beyond" in lab.machines else "outside", 9700)
    pod = lab.nodes["w1"].pod("proof", BACKEND)
    assert pod.request(9700).address == VIRTUAL
    machine.run(*CLOSE)
    try:
        message = "nftables table ip filter, chain FORWARD, drops them (the policy of the chain)"
        until(lambda: message in reason_of(lab, before), f"{before} says {message}", NAMED_S)
        assert any(message in each for each in examined(lab, before))
        until(lambda: lab.master(GATEWAY, asked="w1") not in ("", before), "another master", NAMED_S)
        assert pod.request(9700, seconds=5).address == VIRTUAL
        remedy = reason_of(lab, before).rpartition(": ")[2]
        machine.run("sh", "-ec", remedy)
        until(lambda: "do not get from" not in reason_of(lab, before), f"{before} is open", NAMED_S)
        # With the command that the reason names, and the policy as it is, answers pass as well.
        until(lambda: reason_of(lab, before) == "", f"{before} is ready", 20)
        lab.nodes["w1"].egressctl("handover", GATEWAY, "--to", before)
        assert pod.request(9700, seconds=5).address == VIRTUAL
    finally:
        machine.run(*OPEN)
        machine.run("iptables", "-F")
        pod.stop()
