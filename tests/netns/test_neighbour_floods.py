"""Floods of questions for a virtual address, and of claims to one, on a bridge with three machines: ``b`` floods."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from gateway_agent.lease.virtual_ips import arp
from gateway_agent.lease.virtual_ips.flood_limit import FRAMES, PERIOD_NS
from gateway_agent.lease_daemon.sockets.packet_receiver import MAX_FILTERED_ADDRESSES
from tests.lab.answering import answering
from tests.lab.flooder import flooding, question
from tests.lab.namespace import Namespace
from tests.lab.waiting import until

from .lan import Lan, mac, send
from .link import VIRTUAL, VIRTUAL6

OTHER = {VIRTUAL: "172.16.0.51", VIRTUAL6: "2001:db8::51"}
ADDRESSES = pytest.mark.parametrize("address", [VIRTUAL, VIRTUAL6])
CHANGE_MACS = pytest.mark.parametrize("change_macs", [False, True], ids=["one MAC", "another MAC each time"])
ROUNDS = 20
DURATION_S = 0.2
"""Seconds until a probe is answered, or a claim is noticed, in a flood: the median of all rounds."""
WORST_S = 0.9
"""The same time in each single round. A machine probes again after one second."""
FLOODED = 10_000
"""Frames that have come before a test begins."""
PORT = 9


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    """Give ``a`` the IPv4 address on its interface, and only a route for the IPv6 address."""
    made = Lan()
    made.delete()
    try:
        made.create()
        made.a.ip(f"address add {VIRTUAL}/32 dev eth1", f"route add local {VIRTUAL6} dev eth1")
        yield made
    finally:
        made.delete()


def count(machine: Namespace, direction: str) -> int:
    """Return how many packets an interface has received (``rx``) or sent (``tx``)."""
    [link] = json.loads(machine.run("ip", "-s", "-j", "link", "show", "dev", "eth1"))
    return int(link["stats64"][direction]["packets"])


def claim(address: str, owner: str) -> bytes:
    return (arp.advertisement if ":" in address else arp.gratuitous)(address, owner)


@contextlib.contextmanager
def flooded(lan: Lan, frame: bytes, log: Path, change_macs: bool = False) -> Iterator[None]:
    """Flood ``a`` from ``b``."""
    before = count(lan.a, "rx")
    with flooding(lan.b, "eth1", frame, log, change_macs):
        until(lambda: count(lan.a, "rx") - before > FLOODED, "the flood has begun")
        yield


@ADDRESSES
@CHANGE_MACS
@pytest.mark.parametrize("source", ["", "theirs"], ids=["duplicates", "neighbours"])
def test_another_machine_resolves_the_address(
    lan: Lan, tmp_path: Path, address: str, change_macs: bool, source: str
) -> None:
    theirs = {VIRTUAL: "172.16.0.2", VIRTUAL6: "2001:db8::2"}[address] if source else ""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        answering(lan.a, (VIRTUAL6, "eth1")),
        flooded(lan, question(address, mac(lan.b), theirs), tmp_path / "log", change_macs),
        lan.a.socket(family, socket.SOCK_DGRAM) as receiver,
        lan.c.socket(family, socket.SOCK_DGRAM) as sender,
    ):
        lan.a.inside(lambda: receiver.bind(("", PORT)))
        receiver.settimeout(WORST_S)
        waited = []
        for number in range(ROUNDS):
            lan.c.ip("neighbour flush dev eth1")
            began = time.monotonic()
            sender.sendto(str(number).encode(), (address, PORT))
            assert receiver.recv(16) == str(number).encode()
            waited.append(time.monotonic() - began)
        assert statistics.median(waited) < DURATION_S


def test_a_duplicate_is_found(lan: Lan, tmp_path: Path) -> None:
    lan.c.sysctl({"net/ipv6/conf/all/accept_dad": "1", "net/ipv6/conf/eth1/accept_dad": "1"})
    with answering(lan.a, (VIRTUAL6, "eth1")), flooded(lan, question(VIRTUAL6, mac(lan.b)), tmp_path / "log"):
        try:
            lan.c.ip(f"address add {VIRTUAL6}/64 dev eth1")
            until(
                lambda: "dadfailed" in lan.c.run("ip", "address", "show", "dev", "eth1"),
                "the duplicate is found",
                2.0,
            )
        finally:
            lan.c.ip(f"address delete {VIRTUAL6}/64 dev eth1")
            lan.c.sysctl({"net/ipv6/conf/all/accept_dad": "0", "net/ipv6/conf/eth1/accept_dad": "0"})


@CHANGE_MACS
def test_the_answers_are_bounded(lan: Lan, tmp_path: Path, change_macs: bool) -> None:
    with (
        answering(lan.a, (VIRTUAL6, "eth1")),
        flooded(lan, question(VIRTUAL6, mac(lan.b), "2001:db8::2"), tmp_path / "log", change_macs),
    ):
        sent, received, began = count(lan.a, "tx"), count(lan.a, "rx"), time.monotonic_ns()
        until(lambda: count(lan.a, "rx") - received > 5 * FLOODED, "the flood goes on")
        periods = (time.monotonic_ns() - began) // PERIOD_NS + 2
        # An announcement belongs to each period; what the kernel sends by itself is little.
        assert 0 < count(lan.a, "tx") - sent <= periods * (FRAMES + 1) + 20


@ADDRESSES
@CHANGE_MACS
@pytest.mark.parametrize("flood", ["claims", "questions"])
def test_a_claim_to_another_address_is_noticed(
    lan: Lan, tmp_path: Path, address: str, change_macs: bool, flood: str
) -> None:
    other, stranger = OTHER[address], "02:00:00:00:00:99"
    flooder = claim(address, mac(lan.b)) if flood == "claims" else question(address, mac(lan.b))
    noticed: list[str] = []
    with answering(lan.a, claimed=lambda address, mac, interface: noticed.append(address)) as announcer:
        lan.a.inside(lambda: announcer.watch([(address, "eth1"), (other, "eth1")]))
        with flooded(lan, flooder, tmp_path / "log", change_macs):
            waited = []
            for _ in range(ROUNDS):
                noticed.clear()
                began = time.monotonic()
                repeatedly(lambda: send(lan.c, claim(other, stranger)), lambda: other in noticed)
                waited.append(time.monotonic() - began)
            assert statistics.median(waited) < DURATION_S
            assert max(waited) < WORST_S
            if flood == "claims":
                until(lambda: address in noticed, "the flood's address is noticed")


def repeatedly(action: Callable[[], None], condition: Callable[[], bool]) -> None:
    """Act each 20 ms, as a machine announces an address, until the condition holds."""
    due = itertools.count(time.monotonic(), 0.02)
    following = next(due)

    def step() -> bool:
        nonlocal following
        if time.monotonic() >= following:
            following = next(due)
            action()
        return condition()

    until(step, "it is noticed")


@ADDRESSES
@pytest.mark.parametrize("count", [1, MAX_FILTERED_ADDRESSES + 1])
def test_the_same_address_is_noticed_again_and_again(
    lan: Lan, tmp_path: Path, address: str, count: int
) -> None:
    watched = [(str(ip_address(address) + 0x1000 * number), "eth1") for number in range(count)]
    times: list[int] = []
    with answering(lan.a, claimed=lambda *_: times.append(time.monotonic_ns())) as announcer:
        lan.a.inside(lambda: announcer.watch(watched))
        with flooded(lan, claim(address, mac(lan.b)), tmp_path / "log"):
            began = len(times)
            until(lambda: len(times) > began, "it is noticed")
            until(lambda: times[-1] - times[began] > 10 * PERIOD_NS, "some periods have passed")
    seen = times[began:]
    assert max(later - earlier for earlier, later in itertools.pairwise(seen)) < WORST_S * 1e9
    assert len(seen) <= ((seen[-1] - seen[0]) // PERIOD_NS + 2) * FRAMES
