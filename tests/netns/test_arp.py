"""Announcements and what is heard of others, on a bridge with three machines."""

from __future__ import annotations

import json
import selectors
import socket
from collections.abc import Iterator

import pytest

from gateway_agent.lease.virtual_ips import arp
from gateway_agent.lease_daemon.sockets.arp_socket import Announcer
from gateway_agent.lease_daemon.sockets.packet_receiver import MAX_FILTERED_ADDRESSES
from tests.lab.namespace import Namespace
from tests.lab.waiting import until

from .lan import Lan, known, mac, send
from .link import VIRTUAL, VIRTUAL6, Witness

ADDRESSES = pytest.mark.parametrize("address", [VIRTUAL, VIRTUAL6])
HERE = [(VIRTUAL, "eth1"), (VIRTUAL6, "eth1")]
DURATION_S = 10.0


@pytest.fixture(scope="module")
def shared() -> Iterator[Lan]:
    made = Lan()
    made.delete()
    try:
        made.create()
        yield made
    finally:
        made.delete()


@pytest.fixture
def lan(shared: Lan) -> Iterator[Lan]:
    yield shared
    for machine in (shared.a, shared.b, shared.c):
        machine.ip("neighbour flush all", "link set eth1 up")
        for _, address in owned(machine):
            machine.ip(f"address delete {address} dev eth1")


def owned(machine: Namespace) -> list[tuple[str, str]]:
    listed = json.loads(machine.run("ip", "-j", "address", "show", "dev", "eth1"))[0]["addr_info"]
    found = [(item["local"], f"{item['local']}/{item['prefixlen']}") for item in listed]
    return [(address, prefix) for address, prefix in found if address in (VIRTUAL, VIRTUAL6)]


def configure(machine: Namespace, address: str) -> None:
    if ":" not in address:
        machine.ip(f"address add {address}/32 dev eth1")
        return
    machine.ip(f"address add {address}/128 dev eth1 nodad")

    def answers() -> bool:
        joined = machine.run("ip", "maddress", "show", "dev", "eth1").split()
        return arp.solicited_node(address) in joined and not machine.run(
            "ip", "-6", "address", "show", "dev", "eth1", "tentative"
        )

    # The kernel joins the solicited-node group in a work queue, after the command has ended.
    until(answers, "the kernel answers for the address")


class Ears:
    """What an announcer hears."""

    def __init__(self, machine: Namespace) -> None:
        self.selector = selectors.DefaultSelector()
        self.received: list[tuple[str, str, str]] = []
        self.announcer = machine.inside(Announcer)
        self.announcer.listen(self.selector, lambda *claim: self.received.append(claim))
        self.machine = machine

    def watch(self, *targets: tuple[str, str]) -> None:
        self.machine.inside(lambda: self.announcer.watch(targets))

    def wakes(self) -> bool:
        """Whether anything is there to be read within the time that a frame needs; reads it."""
        ready = self.selector.select(0.0)
        for key, _ in ready:
            key.data()
        return bool(ready)

    def expect(self, claim: tuple[str, str, str]) -> None:
        until(lambda: self.wakes() and claim in self.received, f"{claim} is heard")

    def close(self) -> None:
        self.announcer.close()
        self.selector.close()


@pytest.fixture
def ears(lan: Lan) -> Iterator[Ears]:
    made = Ears(lan.a)
    yield made
    made.close()


@ADDRESSES
def test_one_announcement_moves_a_neighbour_at_once(lan: Lan, address: str) -> None:
    """There and back again, within a second of the last change."""
    configure(lan.a, address)
    lan.c.run("ping", "-n", "-c", "1", "-W", "5", address)
    assert known(lan.c, address) == mac(lan.a)
    announcers = {machine: machine.inside(Announcer) for machine in (lan.a, lan.b)}
    for machine in (lan.b, lan.a, lan.b):
        assert announcers[machine].announce(address, "eth1")
        until(
            lambda owner=machine: known(lan.c, address) == mac(owner),  # type: ignore[misc]
            "the neighbour entry has moved",
            seconds=0.5,
        )
    for announcer in announcers.values():
        announcer.close()


@ADDRESSES
def test_another_owner_is_detected(lan: Lan, ears: Ears, address: str) -> None:
    ears.watch(*HERE)
    other = lan.b.inside(Announcer)
    assert other.announce(address, "eth1")
    ears.expect((address, mac(lan.b), "eth1"))
    other.close()


@ADDRESSES
def test_a_probe_finds_the_owner(lan: Lan, ears: Ears, address: str) -> None:
    ears.watch(*HERE)
    configure(lan.b, address)
    assert ears.announcer.probe(address, "eth1")
    ears.expect((address, mac(lan.b), "eth1"))


@ADDRESSES
def test_a_probe_moves_no_neighbour(lan: Lan, ears: Ears, address: str) -> None:
    configure(lan.b, address)
    lan.c.run("ping", "-n", "-c", "1", "-W", "5", address)
    with Witness(lan.c) as witness:
        assert ears.announcer.probe(address, "eth1")
        until(
            lambda: any(frame[6:12].hex(":") == mac(lan.a) for _, frame in witness.frames()),
            "the probe has come",
        )
    assert known(lan.c, address) == mac(lan.b)


def test_nothing_else_wakes_the_listener(lan: Lan, ears: Ears) -> None:
    ears.watch(*HERE)
    configure(lan.a, VIRTUAL)
    configure(lan.a, VIRTUAL6)
    lan.b.run("ping", "-n", "-c", "3", "-i", "0.01", "172.16.0.1")
    lan.b.run("ping", "-n", "-c", "3", "-i", "0.01", "2001:db8::1")
    lan.b.run("ping", "-n", "-c", "1", VIRTUAL)
    lan.b.run("ping", "-n", "-c", "1", VIRTUAL6)
    for frame in (
        arp.gratuitous("172.16.0.51", mac(lan.b)),
        arp.probe(VIRTUAL, mac(lan.b)),
        arp.probe(VIRTUAL6, mac(lan.b)),
        arp.advertisement("2001:db8::51", mac(lan.b)),
        # As in another VLAN.
        arp.gratuitous(VIRTUAL, mac(lan.b))[:12]
        + b"\x81\x00\x00\x05"
        + arp.gratuitous(VIRTUAL, mac(lan.b))[12:],
    ):
        send(lan.b, frame)
    assert ears.announcer.announce(VIRTUAL, "eth1")
    assert ears.announcer.announce(VIRTUAL6, "eth1")
    assert not ears.wakes()
    # All of it has arrived before this.
    send(lan.b, arp.gratuitous(VIRTUAL, mac(lan.b)))
    ears.expect((VIRTUAL, mac(lan.b), "eth1"))
    assert ears.received == [(VIRTUAL, mac(lan.b), "eth1")]


def test_own_claims_that_come_back_do_not_count(lan: Lan, ears: Ears) -> None:
    ears.watch(*HERE)
    send(lan.b, arp.gratuitous(VIRTUAL, mac(lan.a)))
    send(lan.b, arp.gratuitous(VIRTUAL, "02:00:00:00:00:99"))
    ears.expect((VIRTUAL, "02:00:00:00:00:99", "eth1"))
    assert len(ears.received) == 1


def test_the_watch_changes(lan: Lan, ears: Ears) -> None:
    ears.watch((VIRTUAL, "eth2"))
    send(lan.b, arp.gratuitous(VIRTUAL, mac(lan.b)))
    until(ears.wakes, "it is read")
    assert ears.received == []
    ears.watch((VIRTUAL, "eth1"), ("2001:DB8:0::50", "eth1"))
    send(lan.b, arp.advertisement(VIRTUAL6, mac(lan.b)))
    ears.expect(("2001:DB8:0::50", mac(lan.b), "eth1"))
    ears.watch()
    assert not ears.selector.get_map()


@pytest.mark.parametrize("count", [1, 2, MAX_FILTERED_ADDRESSES, MAX_FILTERED_ADDRESSES + 1, 1000])
def test_however_many_are_watched_each_is_detected(lan: Lan, ears: Ears, count: int) -> None:
    four = [f"10.0.{n // 250}.{n % 250 + 1}" for n in range(count)]
    six = [f"2001:db8::{n + 0x100:x}" for n in range(count)]
    ears.watch(*((address, "eth1") for address in four + six))
    for addresses in (four, six):
        for address in {addresses[0], addresses[len(addresses) // 2], addresses[-1]}:
            send(lan.b, (arp.advertisement if ":" in address else arp.gratuitous)(address, mac(lan.b)))
            ears.expect((address, mac(lan.b), "eth1"))


@ADDRESSES
def test_an_interface_that_is_gone_down_or_none_for_this_is_no_error(
    lan: Lan, ears: Ears, address: str
) -> None:
    for interface in ("gone", "a" * 15, "a" * 16, "", "lo"):
        assert not ears.announcer.announce(address, interface)
        assert not ears.announcer.probe(address, interface)
    lan.a.ip("link set eth1 down")
    assert not ears.announcer.announce(address, "eth1")


def test_frames_of_an_interface_that_comes_back_are_received_again(lan: Lan, ears: Ears) -> None:
    ears.watch(*HERE)
    lan.a.ip("link set eth1 down", "link set eth1 up")
    until(lambda: lan.a.run("cat", "/sys/class/net/eth1/operstate") == "up\n", "the interface is up")
    send(lan.b, arp.gratuitous(VIRTUAL, mac(lan.b)))
    ears.expect((VIRTUAL, mac(lan.b), "eth1"))


@pytest.fixture
def served(lan: Lan, ears: Ears) -> Iterator[Ears]:
    """Let ``a`` answer for the IPv6 address, which is on no interface."""
    lan.a.ip(f"route add local {VIRTUAL6} dev eth1")
    lan.a.inside(lambda: ears.announcer.answer(VIRTUAL6, "eth1"))
    yield ears
    lan.a.ip(f"route delete local {VIRTUAL6} dev eth1")


def asked(machine: Namespace, ears: Ears) -> str:
    """Return the MAC that a machine learns when it asks for the IPv6 address; empty without an answer."""
    machine.ip("neighbour flush dev eth1")
    with machine.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock, Witness(ears.machine) as witness:
        sock.sendto(b"?", (VIRTUAL6, 9))
        until(lambda: any(arp.solicitation(frame) for _, frame in witness.frames()), "the question has come")
        ears.wakes()
    return known(machine, VIRTUAL6)


def test_who_asks_for_a_served_ipv6_address_is_answered(lan: Lan, served: Ears) -> None:
    for machine in (lan.b, lan.c, lan.b):
        assert asked(machine, served) == mac(lan.a)


def test_who_no_longer_serves_an_address_is_silent(lan: Lan, served: Ears) -> None:
    lan.a.inside(lambda: served.announcer.silence(VIRTUAL6, "eth1"))
    assert asked(lan.b, served) == ""
    assert "ff02::1:ff00:50" not in lan.a.run("ip", "maddress", "show", "dev", "eth1")


def test_the_groups_of_served_addresses_are_joined_so_that_switches_let_questions_through(
    lan: Lan, served: Ears
) -> None:
    def joined() -> bool:
        return "ff02::1:ff00:50" in lan.a.run("ip", "maddress", "show", "dev", "eth1")

    assert joined()
    lan.a.inside(lambda: served.announcer.answer("2001:db8:9::50", "eth1"))
    lan.a.inside(lambda: served.announcer.silence("2001:db8:9::50", "eth1"))
    assert joined(), "another address needs the same group"


def test_who_wants_to_use_a_served_address_finds_the_duplicate(lan: Lan, served: Ears) -> None:
    lan.b.sysctl({"net/ipv6/conf/all/accept_dad": "1", "net/ipv6/conf/eth1/accept_dad": "1"})
    try:
        with Witness(lan.a) as witness:
            lan.b.ip(f"address add {VIRTUAL6}/64 dev eth1")
            until(
                lambda: any(arp.solicitation(frame) for _, frame in witness.frames()), "the question has come"
            )
            served.wakes()
        until(
            lambda: "dadfailed" in lan.b.run("ip", "address", "show", "dev", "eth1"), "the duplicate is found"
        )
    finally:
        lan.b.ip(f"address delete {VIRTUAL6}/64 dev eth1")
        lan.b.sysctl({"net/ipv6/conf/all/accept_dad": "0", "net/ipv6/conf/eth1/accept_dad": "0"})


def test_a_unicast_question_is_answered_too(lan: Lan, served: Ears) -> None:
    """As a router asks that has known the MAC for a while."""
    assert asked(lan.b, served) == mac(lan.a)
    lan.b.ip(f"neighbour replace {VIRTUAL6} lladdr {mac(lan.a)} dev eth1 nud probe")

    def reachable() -> bool:
        served.wakes()
        return "REACHABLE" in lan.b.run("ip", "-6", "neigh", "show", VIRTUAL6)

    until(reachable, "the probe is answered")
