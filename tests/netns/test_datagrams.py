"""The lease daemon's socket over either family, against a real kernel."""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from gateway_agent.lease_daemon.sockets.udp import NETWORK_CONTROL, Datagrams
from tests.lab.namespace import Namespace, existing
from tests.lab.waiting import until

PREFIX = "egwdg-"
PORT = 7947


@dataclass(frozen=True)
class Family:
    near: str
    far: str
    length: int
    anywhere: str
    """Unspecified address of the family."""


IPV4 = Family("10.83.1.1", "10.83.1.2", 24, "0.0.0.0")
IPV6 = Family("fd00:83::1", "fd00:83:0:0:1:0:0:2", 64, "::")
"""The far address in full is ``fd00:83::1:0:0:2``: the kernel's form of it is another text."""


class Keeper:
    """One socket, and what has come to it."""

    def __init__(self, machine: Namespace, address: str) -> None:
        self.selector = selectors.DefaultSelector()
        self.received: list[tuple[bytes, str]] = []
        self.datagrams = Datagrams(self.selector, self.received.extend)
        machine.inside(lambda: self.datagrams.bind(address, PORT))

    def receive(self) -> list[tuple[bytes, str]]:
        for key, _ in self.selector.select(0):
            key.data()
        return self.received

    def close(self) -> None:
        self.datagrams.bind("", 0)
        self.selector.close()


@pytest.fixture
def wire() -> Iterator[tuple[Namespace, Namespace]]:
    for name in existing(PREFIX):
        Namespace(name).delete()
    near, far = Namespace(f"{PREFIX}near"), Namespace(f"{PREFIX}far")
    for machine in (near, far):
        machine.create({"net/ipv6/conf/default/accept_dad": "0", "net/ipv6/conf/all/accept_dad": "0"})
    near.ip(f"link add eth0 type veth peer name eth0 netns {far.name}", "link set eth0 up")
    far.ip("link set eth0 up")
    yield near, far
    near.delete()
    far.delete()


@pytest.mark.parametrize("family", [IPV4, IPV6], ids=["ipv4", "ipv6"])
def test_datagrams_pass_both_ways(wire: tuple[Namespace, Namespace], family: Family) -> None:
    near, far = wire
    # Both listen before they have their addresses, as at boot.
    with (
        contextlib.closing(Keeper(near, family.near)) as one,
        contextlib.closing(Keeper(far, family.far)) as other,
    ):
        near.ip(f"address add {family.near}/{family.length} dev eth0")
        far.ip(f"address add {family.far}/{family.length} dev eth0")
        canonical = str(socket.inet_ntop(*packed(family.far)))

        def exchanged() -> bool:
            one.datagrams.send(b"question", canonical)
            other.datagrams.send(b"answer", family.near)
            return bool(one.receive() and other.receive())

        until(exchanged, "both have heard each other", 5)
        assert set(other.received) == {(b"question", family.near)}
        assert set(one.received) == {(b"answer", canonical)}


def packed(address: str) -> tuple[socket.AddressFamily, bytes]:
    kind = socket.AF_INET6 if ":" in address else socket.AF_INET
    return kind, socket.inet_pton(kind, address)


@pytest.mark.parametrize("family", [IPV4, IPV6], ids=["ipv4", "ipv6"])
def test_a_busy_link_drops_them_last(wire: tuple[Namespace, Namespace], family: Family) -> None:
    """The precedence stands in the header that leaves."""
    near, far = wire
    near.ip(f"address add {family.near}/{family.length} dev eth0")
    far.ip(f"address add {family.far}/{family.length} dev eth0")
    with (
        contextlib.closing(Keeper(near, family.near)) as keeper,
        far.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)) as sniffer,
    ):
        far.inside(lambda: sniffer.bind(("eth0", 3)))
        sniffer.settimeout(0.2)

        def seen() -> bytes:
            keeper.datagrams.send(b"beat", family.far)
            with contextlib.suppress(TimeoutError):
                while packet := sniffer.recv(200):
                    if packet.endswith(b"beat"):
                        return packet
            return b""

        packet = until(seen, "a datagram on the wire", 5)
        traffic_class = packet[1] if packet[0] >> 4 == 4 else (packet[0] & 0xF) << 4 | packet[1] >> 4
        assert traffic_class == NETWORK_CONTROL


def test_a_refusal_names_address_and_port(wire: tuple[Namespace, Namespace]) -> None:
    near, _ = wire
    with (
        contextlib.closing(Keeper(near, IPV6.near)),
        pytest.raises(OSError, match=r"UDP \[fd00:83::1\]:7947: "),
    ):
        Keeper(near, IPV6.near)
