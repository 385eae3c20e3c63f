"""What the packet sockets let through while a node is silent, against a real kernel."""

from __future__ import annotations

import os
import random
import selectors
import socket
import threading
from collections.abc import Iterator

import pytest

from gateway_agent.lease.messages.keys import MAC_BYTES
from gateway_agent.lease.messages.strays import GAP_NS
from gateway_agent.lease_daemon.sockets.stray_sockets import BATCH, MAX_CHECKED_PACKETS, StrayListener
from tests.lab.namespace import Namespace, existing
from tests.lab.waiting import until

PREFIX = "egwst-"
PORT, TUNNEL, OTHER = 7947, 4799, 7950
MESSAGE = b"m" * MAC_BYTES + b"\x99 and so on"
HERE, THERE = {4: "10.84.0.1", 6: "fd00:84::1"}, {4: "10.84.0.2", 6: "fd00:84::2"}
LONGEST_CLOSE_S = 5.0
"""Seconds after which a close ends that the test has not allowed."""
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class Listener:
    """One machine that listens, and another one that sends to it."""

    def __init__(self) -> None:
        self.near, self.far = Namespace(f"{PREFIX}near"), Namespace(f"{PREFIX}far")
        for machine in (self.near, self.far):
            machine.create({"net/ipv6/conf/default/accept_dad": "0", "net/ipv6/conf/all/accept_dad": "0"})
        self.near.ip(f"link add eth0 type veth peer name eth0 netns {self.far.name}", "link set eth0 up")
        self.far.ip("link set eth0 up")
        for machine, addresses in ((self.near, HERE), (self.far, THERE)):
            machine.ip(
                f"addr add {addresses[4]}/24 dev eth0",
                f"addr add {addresses[6]}/64 dev eth0 nodad",
                "link set lo up",
            )
        self.selector = selectors.SelectSelector()
        self.refused: list[str] = []
        self.arrived: list[tuple[bytes, str, int]] = []
        self.strays = StrayListener(
            self.selector, self.refused.append, lambda *what: self.arrived.append(what)
        )

    def listen(self, family: int) -> None:
        self.near.inside(lambda: self.strays.listen(HERE[family], PORT, TUNNEL, 0))

    def send(self, family: int, data: bytes, port: int, *, back: bool = False, to: str = "") -> None:
        """Send to the machine that listens, ``to`` another one by it, or ``back`` from it."""
        machine, source, target = (self.near, HERE, THERE) if back else (self.far, THERE, HERE)
        if to:
            target = {family: to}

        def act() -> None:
            with socket.socket(FAMILIES[family], socket.SOCK_DGRAM) as udp:
                udp.bind((source[family], PORT))
                udp.sendto(data, (target[family], port))

        machine.inside(act)

    def receive(self) -> list[tuple[bytes, str, int]]:
        while self.selector.get_map() and (ready := self.selector.select(0)):
            for key, _ in ready:
                key.data()
        return self.arrived

    def close(self) -> None:
        self.strays.close()
        self.near.delete()
        self.far.delete()


@pytest.fixture
def listener() -> Iterator[Listener]:
    if os.geteuid():
        pytest.skip("needs root: network namespaces")
    for name in existing(PREFIX):
        Namespace(name).delete()
    made = Listener()
    yield made
    made.close()


@pytest.mark.parametrize("family", [4, 6])
def test_messages_to_other_ports_and_of_the_other_family_are_received(
    listener: Listener, family: int
) -> None:
    listener.listen(family)
    other = 10 - family
    for each, port in ((family, PORT), (family, TUNNEL), (other, TUNNEL), (family, OTHER), (other, PORT)):
        listener.send(each, MESSAGE, port)
    listener.send(family, b"no message of ours, by its seventeenth byte", OTHER)
    wanted = [(MESSAGE, THERE[family], OTHER), (MESSAGE, THERE[other], PORT)]
    until(lambda: len(listener.receive()) >= 2, "both have come")
    assert sorted(listener.receive()) == sorted(wanted)


@pytest.mark.parametrize("family", [4, 6])
def test_what_a_node_forwards_uses_up_no_search(listener: Listener, family: int) -> None:
    """Pods' packets come to the machine's MAC address too, and one in sixteen of any payload looks like a message."""
    elsewhere = {4: "10.85.0.1", 6: "fd00:85::1"}[family]
    listener.far.ip(f"route add {elsewhere} via {HERE[family]}")
    listener.listen(family)
    for _ in range(MAX_CHECKED_PACKETS + BATCH):
        listener.send(family, MESSAGE, OTHER, to=elsewhere)
        listener.receive()
    listener.send(family, MESSAGE, OTHER)
    until(lambda: bool(listener.receive()), "the message has come")
    assert listener.arrived == [(MESSAGE, THERE[family], OTHER)]


@pytest.mark.parametrize("family", [4, 6])
def test_what_a_node_forwards_over_the_other_family_uses_up_no_search(
    listener: Listener, family: int
) -> None:
    other = 10 - family
    elsewhere = {4: "10.85.0.1", 6: "fd00:85::1"}[other]
    listener.far.ip(f"route add {elsewhere} via {HERE[other]}")
    listener.listen(family)
    for _ in range(MAX_CHECKED_PACKETS + BATCH):
        listener.send(other, MESSAGE, PORT, to=elsewhere)
        listener.receive()
    listener.send(other, MESSAGE, PORT)
    until(lambda: bool(listener.receive()), "the message has come")
    assert listener.arrived == [(MESSAGE, THERE[other], PORT)]


@pytest.mark.parametrize("family", [4, 6])
def test_a_refusal_names_where_this_node_has_sent_to(listener: Listener, family: int) -> None:
    listener.listen(family)
    listener.send(family, MESSAGE, OTHER, back=True)

    def refused() -> bool:
        listener.send(family, MESSAGE, PORT, back=True)
        listener.receive()
        return bool(listener.refused)

    # Kernels send few ICMP errors in a second.
    until(refused, "a kernel has said that no program listens")
    assert set(listener.refused) == {THERE[family]}


def test_a_search_ends_with_its_time_or_with_what_it_may_cost(listener: Listener) -> None:
    listener.listen(4)
    listener.strays.close_expired(GAP_NS - 1)
    assert listener.selector.get_map()
    listener.strays.close_expired(GAP_NS)
    assert not listener.selector.get_map()
    listener.listen(4)
    for _ in range(MAX_CHECKED_PACKETS + 2 * BATCH):
        listener.send(4, MESSAGE, OTHER)
        listener.receive()
    assert len(listener.arrived) == MAX_CHECKED_PACKETS
    # One socket's flood takes nothing from the others.
    listener.send(6, MESSAGE, PORT)
    until(lambda: len(listener.receive()) > MAX_CHECKED_PACKETS, "the message over the other family has come")
    listener.strays.close_expired(GAP_NS)
    assert not listener.selector.get_map()


class SlowToClose(socket.socket):
    """A socket whose close takes until the test allows it, as that of a packet socket takes its time in the kernel."""

    def __init__(self) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_DGRAM)
        self.allowed = threading.Event()
        self.was_allowed = False

    def close(self) -> None:
        self.was_allowed = self.allowed.wait(LONGEST_CLOSE_S)
        super().close()


def test_a_search_that_ends_does_not_hold_up_the_daemon(listener: Listener) -> None:
    """The kernel takes a grace period of RCU for the close of one packet socket: the daemon goes on meanwhile."""
    listener.listen(4)
    slow = SlowToClose()
    listener.selector.register(slow, selectors.EVENT_READ)
    listener.strays._open[slow] = MAX_CHECKED_PACKETS
    sockets = [*listener.strays._open]
    listener.strays.close()
    slow.allowed.set()
    until(lambda: all(each.fileno() < 0 for each in sockets), "they are closed")
    assert len(sockets) > 1
    assert slow.was_allowed, "the close was over before the daemon went on"


def test_no_packet_is_an_exception() -> None:
    taken: list[object] = []
    strays = StrayListener(selectors.SelectSelector(), taken.append, lambda *what: taken.append(what))
    rng = random.Random(7)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.setblocking(False)
        strays._open = {ours: 10**6}
        for _ in range(2000):
            first = rng.choice([0x45, 0x4F, 0x40, 0x60, rng.randrange(256)])
            theirs.send(bytes([first]) + rng.randbytes(rng.randrange(120)))
            strays._read(
                ours, strays._take_message if rng.random() < 0.5 else lambda p: strays._take_refusal(PORT, p)
            )
        strays._open = {}
    assert taken
