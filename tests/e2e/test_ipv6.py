"""Dual stack: pods with an address of each family, a gateway that shows an address of each."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..lab import documents, topology
from ..lab.documents import Document
from ..lab.flow import Flow
from ..lab.lab import SELECTED, UNSELECTED, Lab
from ..lab.node import Node
from ..lab.pod import Pod
from ..lab.silence import longest
from ..lab.topology import OUTSIDE, OUTSIDE6
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

ADDRESS = "172.16.0.50"
ADDRESS6 = topology.beside(ADDRESS)
DESTINATIONS = ["203.0.113.0/24", "2001:db8:113::/64"]
PORTS = iter(range(9400, 9500))
UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES)


def objects(*addresses: str, when_no_gateway: str = "Drop", connection_sync: bool = False) -> list[Document]:
    gateway = documents.virtual_gateway(
        GATEWAY, addresses, when_no_gateway=when_no_gateway, connection_sync=connection_sync
    )
    return [gateway, documents.policy("backend", GATEWAY, BACKEND, DESTINATIONS)]


@pytest.fixture(scope="module")
def shared_lab(plugin: Path) -> Iterator[Lab]:
    with settled("test_ipv6", topology.dual_stack(), objects=objects(ADDRESS, ADDRESS6)) as made:
        yield made


@pytest.fixture
def lab(shared_lab: Lab) -> Lab:
    """Both addresses have a master, and all others are ready to follow."""
    shared_lab.publish("objects", objects(ADDRESS, ADDRESS6))
    until(lambda: set(masters(shared_lab)) == {ADDRESS, ADDRESS6}, "the gateway has both addresses")
    until(lambda: all(masters(shared_lab).values()), "each address has a master", 20)
    shared_lab.wait_settled(GATEWAY, 40)
    return shared_lab


@pytest.fixture(scope="module", params=["bridge", "ptp"])
def pod(shared_lab: Lab, request: pytest.FixtureRequest) -> Pod:
    return shared_lab.nodes["w1"].pod(f"backend-{request.param}", BACKEND, kind=request.param)


def masters(lab: Lab) -> dict[str, str]:
    """By address, as the worker sees them."""
    return {egress["ip"]: egress["master"] for egress in lab.nodes["w1"].agent.status()["egressIPs"]}


def master(lab: Lab) -> Node:
    """Of the IPv6 address."""
    return lab.nodes[masters(lab)[ADDRESS6]]


def having(lab: Lab) -> list[str]:
    """Return the nodes that have the IPv6 address in their kernel."""
    return [name for name, node in lab.nodes.items() if node.has(ADDRESS6)]


def test_the_outside_sees_the_address_of_the_packets_family(lab: Lab, pod: Pod) -> None:
    with lab.capture() as capture:
        for _ in range(10):
            assert pod.request(SELECTED, address=OUTSIDE6).address == ADDRESS6
            assert pod.datagram(SELECTED, address=OUTSIDE6).address == ADDRESS6
            assert pod.request(SELECTED).address == ADDRESS
        assert capture.sources(SELECTED) == {ADDRESS, ADDRESS6}
    assert having(lab) == [master(lab).name]


def test_a_pod_that_is_not_selected_leaves_as_its_node(lab: Lab) -> None:
    worker = lab.nodes["w1"]
    other = worker.pod("other", {"app": "other"})
    assert other.request(UNSELECTED, address=OUTSIDE6).address == worker.host.ip6
    assert other.request(UNSELECTED).address == worker.host.ip


def test_a_pod_on_the_master_itself(lab: Lab) -> None:
    node = master(lab)
    own = node.pod("on-master", BACKEND)
    try:
        assert own.request(SELECTED, address=OUTSIDE6).address == ADDRESS6
        assert own.request(SELECTED).address == ADDRESS
    finally:
        own.stop()


def test_the_node_itself_never_uses_the_address(lab: Lab) -> None:
    for target in (OUTSIDE6, topology.beside("172.16.0.1")):
        [route] = json.loads(master(lab).machine.run("ip", "-j", "route", "get", target))
        assert route["prefsrc"] != ADDRESS6


def test_from_outside_it_answers_a_ping_and_nothing_else(lab: Lab) -> None:
    node = master(lab)
    lab.serve(node.name, 9300, address="::")
    outside = lab.machines["outside"]
    outside.run("ping", "-c", "1", "-W", "2", ADDRESS6)
    with lab.capture(node.name, "eth1") as capture:
        with pytest.raises(TimeoutError):
            _visit(lab, ADDRESS6)
        assert capture.packets(9300)
    _visit(lab, topology.beside(node.host.egress_ip))


def _visit(lab: Lab, address: str) -> None:
    with lab.machines["outside"].socket(socket.AF_INET6, socket.SOCK_STREAM) as visitor:
        visitor.settimeout(1)
        visitor.connect((address, 9300))


def test_a_node_that_cannot_ask_for_its_neighbours_is_followed_by_another(lab: Lab, pod: Pod) -> None:
    """Its link-local address is gone, or another machine has it: packets of pods would get no further."""
    silent = master(lab)
    shown = silent.machine.run("ip", "-6", "-j", "address", "show", "dev", "eth1", "scope", "link")
    own = next(entry["local"] for wire in json.loads(shown) for entry in wire["addr_info"] if entry)
    silent.machine.ip(f"address del {own}/64 dev eth1")
    silent.machine.run("ip", "-6", "neighbour", "flush", "dev", "eth1")
    try:
        until(lambda: masters(lab)[ADDRESS6] not in ("", silent.name), "another node is master", 10)
        until(lambda: pod.request(SELECTED, 0.3, OUTSIDE6).address == ADDRESS6, "requests pass again", 5)
        members = lab.nodes["w1"].agent.status()["members"]
        [reason] = [member["reason"] for member in members if member["node"] == silent.name]
        assert "interface eth1 has no link-local address" in str(reason)
    finally:
        silent.machine.ip(f"address add {own}/64 dev eth1 nodad")


def test_a_node_that_dies_is_followed_by_another_with_the_same_address(lab: Lab, pod: Pod) -> None:
    failed = master(lab)
    connection = pod.connect(SELECTED, address=OUTSIDE6)
    connection.echo("before")
    with lab.capture() as capture:
        lab.cut(failed.name)
        try:
            until(lambda: pod.request(SELECTED, 0.3, OUTSIDE6).address == ADDRESS6, "requests pass again", 5)
            assert connection.echo("after") == "after", "the open connection goes on"
            assert any(name != failed.name for name in having(lab))
            assert capture.sources(SELECTED) <= {ADDRESS, ADDRESS6}
        finally:
            lab.mend(failed.name)
    connection.close()
    # While addresses even out among the others, the next master may hand over once more.
    until(lambda: having(lab) == [masters(lab)[ADDRESS6]], "the old master has let go")


def test_drain_loses_no_connection(lab: Lab, pod: Pod) -> None:
    before = master(lab)
    connection = pod.connect(SELECTED, address=OUTSIDE6)
    with lab.capture() as capture:
        before.egressctl("drain")
        try:
            assert before.name not in (*having(lab), master(lab).name)
            assert connection.echo("after") == "after"
            assert pod.request(SELECTED, address=OUTSIDE6).address == ADDRESS6
            assert capture.sources(SELECTED) == {ADDRESS6}
        finally:
            before.egressctl("undrain")
    connection.close()


@pytest.mark.parametrize("kind", ["new connections", "a flow"])
def test_drain_loses_no_packet_with_connection_sync(lab: Lab, pod: Pod, kind: str) -> None:
    """One datagram each millisecond, all by new ports or all by one."""
    lab.publish("objects", objects(ADDRESS, ADDRESS6, connection_sync=True))
    controls = [lab.nodes[name].agent.run_dir / "conntrackd-sync.sock" for name in ("g1", "g2", "g3")]
    until(lambda: all(path.exists() for path in controls), "conntrackd runs everywhere", 20)
    lab.wait_settled(GATEWAY, 40)
    before = master(lab)
    # A port that nobody has used: no entry of an earlier test is in the way.
    lab.serve("outside", port := next(PORTS), address=OUTSIDE6)
    log = lab.directory / "flow.log"
    with (
        lab.capture() as capture,
        lab.probing(pod, port, OUTSIDE6)
        if kind != "a flow"
        else Flow(pod.machine, log, port, OUTSIDE6) as sent,
    ):
        until(lambda: len(capture.packets(port)) > 200, "they arrive")
        before.egressctl("drain")
        try:
            seen = len(capture.packets(port))
            until(lambda: len(capture.packets(port)) > seen + 200, "they go on arriving")
            probes = sent.stop()
            assert before.name not in having(lab)
            assert capture.sources(port) == {ADDRESS6}
        finally:
            before.egressctl("undrain")
    assert longest(probes).lost == 0, f"{longest(probes)} of {len(probes)}"


@pytest.mark.parametrize("choice", ["Drop", "Direct"])
def test_a_gateway_without_an_ipv6_address_leaks_nothing(lab: Lab, pod: Pod, choice: str) -> None:
    """IPv6 packets have no gateway then: they go as its owner has chosen."""
    lab.publish("objects", objects(ADDRESS, when_no_gateway=choice))
    until(lambda: list(masters(lab)) == [ADDRESS], "the gateway has lost its IPv6 address")
    own = lab.nodes["w1"].host.ip6
    if choice == "Direct":
        assert until(lambda: pod.request(SELECTED, 0.3, OUTSIDE6), "IPv6 goes its own way").address == own
    else:
        until(lambda: not having(lab), "nobody holds the IPv6 address")
        with lab.capture() as capture:
            for _ in range(5):
                with pytest.raises(OSError) as failure:
                    pod.request(SELECTED, address=OUTSIDE6)
                assert failure.value.errno in UNREACHABLE
            assert pod.request(SELECTED).address == ADDRESS
            assert capture.sources(SELECTED) == {ADDRESS}
    assert pod.request(SELECTED, address=OUTSIDE).address == ADDRESS
