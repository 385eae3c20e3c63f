"""The lease daemons' port: who reaches it, and what a flood does to a node's heartbeats."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from gateway_agent.lease_daemon.sockets.udp import QUEUE, SO_RCVBUFFORCE
from tests.lab.local_user import as_local_user
from tests.lab.packets import frame, mac_of, send, udp
from tests.lab.waiting import until

from .datapath_lab import KEEPER_PORT, NODES, Lab

G1 = NODES["g1"]
BEATS = 40
FLOOD = 20_000


def sent(payload: bytes, address: str = G1) -> Callable[[], None]:
    """Return a function that sends a datagram to the port of a keeper; it may be refused."""

    def go() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
            sock.sendto(payload, (address, KEEPER_PORT))

    return go


@pytest.fixture
def keeper(lab: Lab) -> Iterator[socket.socket]:
    """Yield a socket on g1 in a keeper's place."""
    with lab.nodes["g1"].machine.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE)
        sock.bind(("0.0.0.0", KEEPER_PORT))
        yield sock


ATTACKS: dict[str, Callable[[Lab], None]] = {
    "a pod of the node": lambda lab: lab.pods["onmaster"].machine.inside(sent(b"attack")),
    "a pod of another node": lambda lab: lab.pods["unselected"].machine.inside(sent(b"attack")),
    "a routed pod": lambda lab: lab.pods["routed"].machine.inside(sent(b"attack")),
    "a pod with a node's address": lambda lab: send(
        lab.pods["onmaster"].machine, udp(NODES["w2"], G1, KEEPER_PORT, b"attack")
    ),
    "a machine of the LAN": lambda lab: lab.outside.inside(sent(b"attack")),
    "a local user of the node": lambda lab: as_local_user(lab.nodes["g1"].machine, sent(b"attack")),
    "a local user by lo": lambda lab: as_local_user(lab.nodes["g1"].machine, sent(b"attack", "127.0.0.1")),
    "a local user of another node": lambda lab: as_local_user(lab.nodes["w2"].machine, sent(b"attack")),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_only_the_keepers_of_other_nodes_reach_the_port(lab: Lab, keeper: socket.socket, attack: str) -> None:
    ATTACKS[attack](lab)
    lab.nodes["w2"].machine.inside(sent(b"heartbeat"))
    assert keeper.recvfrom(100)[0] == b"heartbeat"


def test_a_pod_does_not_reach_the_port_by_destination_nat(lab: Lab, keeper: socket.socket) -> None:
    nat = "table ip service { chain pre { type nat hook prerouting priority dstnat; udp dport 9 dnat to %s:%d; }; }"
    for node, pod in (("g1", "onmaster"), ("w1", "unselected")):
        machine = lab.nodes[node].machine
        lab.nodes[node].nft(nat % (G1, KEEPER_PORT))
        try:
            send(lab.pods[pod].machine, udp(lab.pods[pod].address, "192.0.2.1", 9, b"attack"))
            lab.nodes["w2"].machine.inside(sent(b"heartbeat"))
            assert keeper.recvfrom(100)[0] == b"heartbeat"
            assert "dst=192.0.2.1" not in machine.run("conntrack", "-L", "-p", "udp"), "it was dropped"
        finally:
            lab.nodes[node].nft("delete table ip service")


def test_a_flood_with_a_nodes_address_displaces_none_of_its_heartbeats(
    lab: Lab, keeper: socket.socket
) -> None:
    """From a machine of the LAN, by a MAC of its own and by ever new ones, far above what a keeper can take."""
    worker = lab.nodes["w2"].machine
    worker.inside(sent(b"heartbeat"))
    assert keeper.recv(100) == b"heartbeat"
    heard: list[bytes] = []
    listener = threading.Thread(target=lambda: heard.extend(_until_silence(keeper)))
    listener.start()
    flood = threading.Thread(target=lambda: _flood(lab))
    flood.start()
    beats = 0
    while flood.is_alive() or beats < BEATS:
        worker.inside(sent(b"heartbeat"))
        beats += 1
        time.sleep(0.02)  # the heartbeats' own period
    flood.join()
    listener.join()
    assert heard.count(b"heartbeat") == beats
    assert heard.count(b"attack") < FLOOD


def _until_silence(keeper: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(TimeoutError):
        while True:
            yield keeper.recv(100)


def _flood(lab: Lab) -> None:
    target = mac_of(lab.nodes["g1"].machine, "eth0")
    packet = udp(NODES["w2"], G1, KEEPER_PORT, b"attack")
    with lab.outside.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        lab.outside.inside(lambda: sock.bind(("g1-eth0", 0)))
        for number in range(FLOOD):
            mac = number % 5000 if number % 2 else 0
            sock.send(frame(target, f"02:00:00:00:{mac >> 8:02x}:{mac & 255:02x}", packet))


def test_the_flood_reaches_the_rule(lab: Lab, keeper: socket.socket) -> None:
    """It is well made: less of it than the rate comes through."""
    target = mac_of(lab.nodes["g1"].machine, "eth0")
    with lab.outside.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        lab.outside.inside(lambda: sock.bind(("g1-eth0", 0)))
        sock.send(frame(target, "02:00:00:00:00:01", udp(NODES["w2"], G1, KEEPER_PORT, b"attack")))
    assert until(lambda: keeper.recv(100), "the forged datagram") == b"attack"
