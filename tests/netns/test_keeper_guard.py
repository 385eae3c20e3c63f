"""The lease daemons' port: who reaches it, and what a flood does to a node's heartbeats."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from cni.datapath.lease_port_guard import SPARE_ELEMENTS
from cni.kernel import ids
from gateway_agent.lease_daemon.sockets.udp import QUEUE, SO_RCVBUFFORCE
from tests.lab.local_user import as_local_user
from tests.lab.packets import frame, mac_of, send, udp
from tests.lab.waiting import until

from .datapath_lab import KEEPER_PORT, SERVICE, SERVICE6, Node, v6
from .datapath_traffic import family_of
from .dual_stack_lab import Tunnel

BEATS = 40
FLOOD = 20_000
PLACES = 3 + SPARE_ELEMENTS
"""Senders that have a rate of their own on g1: one for each other node, and some more."""
FORGED_MACS = [f"02:00:00:00:01:{number:02x}" for number in range(PLACES)]
LO = {4: "127.0.0.1", 6: "::1"}
SERVICES = {4: "192.0.2.1", 6: "2001:db8:9::1"}
NAT = "table %s service { chain pre { type nat hook prerouting priority dstnat; udp dport 9 dnat to %s; }; }"


def sent(payload: bytes, address: str) -> Callable[[], None]:
    """Return a function that sends a datagram to the port of a keeper; it may be refused."""

    def go() -> None:
        with socket.socket(family_of(address), socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
            sock.sendto(payload, (address, KEEPER_PORT))

    return go


def beat(tunnel: Tunnel) -> None:
    """Send what the keeper of another node sends."""
    tunnel.lab.nodes["w2"].machine.inside(sent(b"heartbeat", tunnel.address("g1")))


@pytest.fixture
def keeper(tunnel: Tunnel) -> Iterator[socket.socket]:
    """Yield a socket on g1 in a keeper's place, at the addresses of all IP versions."""
    address = "::" if tunnel.underlay == 6 else "0.0.0.0"
    with tunnel.lab.nodes["g1"].machine.socket(family_of(address), socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE)
        sock.bind((address, KEEPER_PORT))
        yield sock


def by_pod(name: str) -> Callable[[Tunnel], None]:
    return lambda tunnel: tunnel.lab.pods[name].machine.inside(sent(b"attack", tunnel.address("g1")))


def by_user(node: str, lo: bool = False) -> Callable[[Tunnel], None]:
    return lambda tunnel: as_local_user(
        tunnel.lab.nodes[node].machine, sent(b"attack", LO[tunnel.underlay] if lo else tunnel.address("g1"))
    )


ATTACKS: dict[str, Callable[[Tunnel], None]] = {
    "a pod of the node": by_pod("onmaster"),
    "a pod of another node": by_pod("unselected"),
    "a routed pod": by_pod("routed"),
    "a pod with a node's address": lambda tunnel: send(
        tunnel.lab.pods["onmaster"].machine,
        udp(tunnel.address("w2"), tunnel.address("g1"), KEEPER_PORT, b"attack"),
    ),
    "a machine of the LAN": lambda tunnel: tunnel.lab.outside.inside(sent(b"attack", tunnel.address("g1"))),
    "a local user of the node": by_user("g1"),
    "a local user by lo": by_user("g1", lo=True),
    "a local user of another node": by_user("w2"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_only_the_keepers_of_other_nodes_reach_the_port(
    tunnel: Tunnel, keeper: socket.socket, attack: str
) -> None:
    ATTACKS[attack](tunnel)
    beat(tunnel)
    assert keeper.recvfrom(100)[0] == b"heartbeat"


def test_a_pod_does_not_reach_the_port_by_destination_nat(tunnel: Tunnel, keeper: socket.socket) -> None:
    lab, service = tunnel.lab, SERVICES[tunnel.underlay]
    table, g1 = {4: ("ip", "%s:%d"), 6: ("ip6", "[%s]:%d")}[tunnel.underlay]
    for node, name in (("g1", "onmaster"), ("w1", "unselected")):
        pod, machine = lab.pods[name], lab.nodes[node].machine
        lab.nodes[node].nft(NAT % (table, g1 % (tunnel.address("g1"), KEEPER_PORT)))
        try:
            own = v6(pod.address) if tunnel.underlay == 6 else pod.address
            send(pod.machine, udp(own, service, 9, b"attack"))
            beat(tunnel)
            assert keeper.recvfrom(100)[0] == b"heartbeat"
            entries = machine.run("conntrack", "-L", "-f", f"ipv{tunnel.underlay}", "-p", "udp")
            assert f"dst={service}" not in entries, "it was dropped"
        finally:
            lab.nodes[node].nft(f"delete table {table} service")


def test_a_pod_does_not_reach_the_port_through_its_gateway(tunnel: Tunnel, keeper: socket.socket) -> None:
    """Destination NAT on the master, behind the tunnel, leads to the port."""
    g1, six = tunnel.lab.nodes["g1"], tunnel.underlay == 6
    table, form = ("ip6", "[%s]:%d") if six else ("ip", "%s:%d")
    pod, service = tunnel.lab.pods["bridged"], SERVICE6 if six else SERVICE
    g1.nft(NAT % (table, form % (tunnel.address("g1"), KEEPER_PORT)))
    before = _from_elsewhere(g1)
    try:
        send(pod.machine, udp(v6(pod.address) if six else pod.address, service, 9, b"attack"))
        until(lambda: _from_elsewhere(g1) > before, "it is dropped")
        beat(tunnel)
        assert keeper.recvfrom(100)[0] == b"heartbeat"
    finally:
        g1.nft(f"delete table {table} service")


def _from_elsewhere(node: Node) -> int:
    """Return how many packets a node has dropped because they came by no interface that leads to nodes."""
    rules = node.machine.run("nft", "list", "chain", "inet", ids.NFT_NODE_INET, "lease_source")
    return int(rules.partition("oif missing counter packets ")[2].split()[0])


def test_a_flood_with_a_nodes_address_displaces_none_of_its_heartbeats(
    tunnel: Tunnel, keeper: socket.socket
) -> None:
    """From a machine of the LAN, by a MAC of its own and by ever new ones, far above what a keeper can take."""
    beat(tunnel)
    assert keeper.recv(100) == b"heartbeat"
    received: list[bytes] = []
    listener = threading.Thread(target=lambda: received.extend(_until_silence(keeper)))
    listener.start()
    flood = threading.Thread(target=lambda: _flood(tunnel))
    began = time.monotonic()
    flood.start()
    beats = 0
    while flood.is_alive() or beats < BEATS:
        beat(tunnel)
        beats += 1
        time.sleep(0.02)  # the heartbeats' own period
    flood.join()
    seconds = time.monotonic() - began
    listener.join()
    assert received.count(b"heartbeat") == beats
    # The node itself has a place; what has none shares one rate.
    assert 0 < received.count(b"attack") <= (PLACES - 1) * (250 + 500 * seconds) + 500 + 2000 * seconds


def test_a_message_of_a_node_that_finds_no_place_is_received(tunnel: Tunnel, keeper: socket.socket) -> None:
    """Others have all places: those of a router that has been replaced, or forgers."""
    with _forger(tunnel) as forge:
        _take_places(tunnel, forge)
    for _ in range(PLACES):
        assert keeper.recv(100) == b"attack"
    for _ in range(BEATS):
        beat(tunnel)
        assert keeper.recv(100) == b"heartbeat"


def test_a_sender_over_its_own_rate_takes_nothing_of_the_shared_one(
    tunnel: Tunnel, keeper: socket.socket
) -> None:
    """A node without a place, whose heartbeats pass by the shared rate only, is heard beside the flood."""
    with _forger(tunnel) as forge:
        _take_places(tunnel, forge)
        received: list[bytes] = []
        listener = threading.Thread(target=lambda: received.extend(_until_silence(keeper)))
        listener.start()
        began = time.monotonic()
        for number in range(FLOOD):
            forge(FORGED_MACS[0])
            if number % (FLOOD // BEATS) == 0:
                beat(tunnel)
        seconds = time.monotonic() - began
        listener.join()
    assert received.count(b"heartbeat") == BEATS
    assert PLACES < received.count(b"attack") <= PLACES + 250 + 500 * seconds


def _take_places(tunnel: Tunnel, forge: Callable[[str], object]) -> None:
    """Take all places, those of the nodes too."""
    tunnel.lab.nodes["g1"].nft(f"flush set inet {ids.NFT_NODE_INET} lease_places_{PLACES}")
    for mac in FORGED_MACS:
        forge(mac)


def _until_silence(keeper: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(TimeoutError):
        while True:
            yield keeper.recv(100)


def _flood(tunnel: Tunnel) -> None:
    with _forger(tunnel) as forge:
        for number in range(FLOOD):
            mac = number % 5000 if number % 2 else 0
            forge(f"02:00:00:00:{mac >> 8:02x}:{mac & 255:02x}")


@contextlib.contextmanager
def _forger(tunnel: Tunnel) -> Iterator[Callable[[str], object]]:
    """Yield what sends a datagram to the keeper with a node's address from a machine of the LAN, by this MAC."""
    lab = tunnel.lab
    target = mac_of(lab.nodes["g1"].machine, "eth0")
    packet = udp(tunnel.address("w2"), tunnel.address("g1"), KEEPER_PORT, b"attack")
    with lab.outside.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        lab.outside.inside(lambda: sock.bind(("g1-eth0", 0)))
        yield lambda mac: sock.send(frame(target, mac, packet))


def test_the_flood_reaches_the_rule(tunnel: Tunnel, keeper: socket.socket) -> None:
    """It is well made: less of it than the rate comes through."""
    with _forger(tunnel) as forge:
        forge("02:00:00:00:00:01")
    assert until(lambda: keeper.recv(100), "the forged datagram") == b"attack"
