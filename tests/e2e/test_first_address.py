"""The address that others take for a node's, and the one that basic mode shows: never another program's, never ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ..lab import documents, topology
from ..lab.dhcp import leased
from ..lab.first_address import first_addresses
from ..lab.lab import SELECTED, Lab
from ..lab.namespace import Namespace
from ..lab.topology import OUTSIDE
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

VIRTUAL = "172.16.0.50"
VIRTUAL6 = topology.beside(VIRTUAL)
ROUTE = "route replace default via 172.16.0.1 dev eth1"
FOREIGN = "172.16.0.60"


@pytest.fixture(scope="module", params=[4, 6])
def virtual(plugin: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Lab, int]]:
    objects = documents.virtual_ip([VIRTUAL if request.param == 4 else VIRTUAL6], GATEWAY)
    machines = topology.dual_stack(workers=1, gateways=2)
    with settled(f"test_first_address-{request.param}", machines, objects=objects) as made:
        yield made, request.param


def test_on_every_master_the_first_address_is_the_nodes_own(virtual: tuple[Lab, int]) -> None:
    """As a kubelet without ``--node-ip`` chooses, and others; also on the node that takes over."""
    lab, family = virtual
    address = VIRTUAL if family == 4 else VIRTUAL6
    for _ in range(2):
        node = lab.nodes[lab.wait_settled(GATEWAY)]
        until(partial(node.has, address), f"{node.name} has the address")
        wire = node.host.interfaces[-1]
        [default] = json.loads(node.machine.run("ip", "-j", "route", "show", "default"))
        assert default["dev"] == wire.name, "where the kubelet looks"
        first = first_addresses(node.machine, wire.name, family)
        assert first["kubelet"] == first["ip address"] == (wire.ip if family == 4 else wire.ip6)
        own = {ip for each in node.host.interfaces for ip in (each.ip, each.ip6)}
        assert own.issuperset(first.values())
        following = next(name for name in ("g1", "g2") if name != node.name)
        lab.nodes["w1"].egressctl("handover", GATEWAY, "--to", following)
        assert lab.wait_settled(GATEWAY) == following


@pytest.fixture(scope="module")
def basic(plugin: Path) -> Iterator[Lab]:
    with settled("test_first_address-basic", topology.separate(workers=1, gateways=2)) as made:
        yield made


def chosen(machine: Namespace) -> str:
    """Return the address that the kernel sends to the outside by."""
    [route] = json.loads(machine.run("ip", "-j", "route", "get", OUTSIDE))
    return str(route["prefsrc"])


@pytest.mark.parametrize(
    ("added", "again"),
    [
        (f"{FOREIGN}/32 dev eth1", True),
        (f"{FOREIGN}/32 dev eth1 scope host", True),
        (f"{FOREIGN}/32 dev eth1 preferred_lft 0", True),
        (f"{FOREIGN}/24 dev eth1", False),
    ],
    ids=["listed first", "scope host", "deprecated", "secondary"],
)
def test_basic_mode_shows_no_other_programs_address(basic: Lab, added: str, again: bool) -> None:
    """``again``: the node's own address goes and comes back, as a restart of systemd-networkd has it."""
    nodes = [basic.nodes[name] for name in ("g1", "g2")]
    basic.wait_settled(GATEWAY)
    pod = basic.nodes["w1"].pod("shown", BACKEND)
    try:
        for node in nodes:
            node.machine.ip(f"address add {added}")
            own = node.host.interfaces[-1].address
            if again:
                node.machine.ip(f"address del {own} dev eth1", f"address add {own} dev eth1", ROUTE)
        master = basic.wait_settled(GATEWAY, 40)
        own = basic.nodes[master].host.egress_ip
        assert chosen(basic.nodes[master].machine) == own
        until(lambda: _seen(basic) == own, "the agents show the node's own address", 20)
        with basic.capture() as capture:
            for _ in range(5):
                assert pod.request(SELECTED).address == own
            assert capture.sources(SELECTED) == {own}
    finally:
        for node in nodes:
            node.machine.ip(f"address del {added.split()[0]} dev eth1")
        pod.stop()


def test_basic_mode_follows_the_choice_of_the_administrator(basic: Lab) -> None:
    """What the kernel would send by changes under a running agent, there and back again."""
    nodes = [basic.nodes[name] for name in ("g1", "g2")]
    basic.wait_settled(GATEWAY, 40)
    pod = basic.nodes["w1"].pod("followed", BACKEND)
    own = {node.name: node.host.egress_ip for node in nodes}
    others = {node.name: f"172.16.0.6{number}" for number, node in enumerate(nodes)}
    with basic.capture() as capture:
        for node in nodes:
            node.machine.ip(f"address add {others[node.name]}/24 dev eth1")
        assert pod.request(SELECTED).address in own.values()
        for node in nodes:
            node.machine.ip(f"{ROUTE} src {others[node.name]}")
        try:
            until(lambda: _seen(basic) in others.values(), "the agents show the other address", 20)
            shown = others[basic.wait_settled(GATEWAY, 40)]
            until(lambda: pod.request(SELECTED, 0.5).address == shown, "the outside sees it", 10)
        finally:
            for node in nodes:
                node.machine.ip(ROUTE)
        until(lambda: _seen(basic) in own.values(), "and the nodes' own again", 20)
        shown = own[basic.wait_settled(GATEWAY, 40)]
        until(lambda: pod.request(SELECTED, 0.5).address == shown, "the outside sees it", 10)
        assert capture.sources(SELECTED) <= {*own.values(), *others.values()}
    for node in nodes:
        node.machine.ip(f"address del {others[node.name]}/24 dev eth1")
    pod.stop()


def test_an_egress_node_gets_its_address_by_dhcp_and_serves_with_it(basic: Lab, tmp_path: Path) -> None:
    """With our rules in its kernel: the exchange by broadcast, and the renewal while the node is master."""
    node = basic.nodes[basic.wait_settled(GATEWAY, 40)]
    pod = basic.nodes["w1"].pod("leased", BACKEND)
    server, client, own = (basic.machines["router"], "eth1"), (node.machine, "eth1"), node.host.interfaces[-1]
    try:
        with leased(server, client, FOREIGN, "172.16.0.1", tmp_path) as lease:
            basic.wait_settled(GATEWAY, 40)
            basic.nodes["w1"].egressctl("handover", GATEWAY, "--to", node.name)
            until(lambda: _seen(basic) == FOREIGN, "the node serves by the address that it has got", 20)
            until(lambda: pod.request(SELECTED, 0.5).address == FOREIGN, "the outside sees it", 10)
            lease.renew()
            assert pod.request(SELECTED).address == FOREIGN
    finally:
        node.machine.ip("address flush dev eth1", f"address add {own.address} dev eth1", ROUTE)
        pod.stop()


def _seen(lab: Lab) -> str:
    """Return the address that the worker's agent says the outside sees."""
    [egress] = lab.nodes["w1"].agent.status()["egressIPs"]
    return str(egress["ip"])
