"""Virtual addresses on a real kernel: they receive, and do nothing else."""

from __future__ import annotations

import contextlib
import json
import socket
import time

import pytest

from cni.kernel import ids
from cni.kernel.errors import KernelError
from cni.kernel.netlink import addresses as kernel
from cni.kernel.netlink.constants import (
    NLM_F_ACK,
    NLM_F_CREATE,
    RT_SCOPE_HOST,
    RTA_DST,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTN_LOCAL,
)
from cni.kernel.netlink.messages import RTMSG, RouteHeader, attribute
from cni.kernel.netlink.netlink_socket import Socket
from gateway_agent.lease_daemon.kernel.vip_addresses import Addresses, _body
from tests.lab.answering import answering
from tests.lab.first_address import first_addresses
from tests.lab.namespace import Namespace
from tests.lab.waiting import until

from .link import VIRTUAL, VIRTUAL6, Wire, Witness
from .virtual_addresses import OTHER_SUBNET, OTHER_SUBNET6, Inside, addresses, line

__all__ = ["addresses", "line"]

BOTH = (VIRTUAL, VIRTUAL6)
EVERY = (VIRTUAL, OTHER_SUBNET, VIRTUAL6, OTHER_SUBNET6)


def source(machine: Namespace, destination: str) -> str:
    """Return the address that a program gets that asks for none."""
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    with machine.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((destination, 9))
        return str(sock.getsockname()[0])


def test_they_come_and_go_and_both_may_be_done_twice(addresses: Inside) -> None:
    for address in EVERY * 2:
        addresses.add(address, "eth1")
    assert addresses.ours() == tuple(sorted((address, "eth1") for address in EVERY))
    for address in EVERY * 2:
        addresses.remove(address, "eth1")
        addresses.remove(address, "gone")
    assert addresses.ours() == ()


def test_an_address_of_another_program_is_not_touched(line: Wire, addresses: Inside) -> None:
    line.near.ip(f"address add {VIRTUAL}/24 dev eth2", f"address add {VIRTUAL6}/64 dev eth2 nodad")
    for address in (VIRTUAL, VIRTUAL6):
        for interface in ("eth1", "eth2"):
            with pytest.raises(KernelError, match=f"{address} is configured on eth2 by another program"):
                addresses.add(address, interface)
            addresses.remove(address, interface)
    assert addresses.ours() == ()
    addresses.add(OTHER_SUBNET, "eth1")
    found = line.near.inside(lambda: kernel.foreign([*EVERY, "127.0.0.1"]))
    assert found == {VIRTUAL: "eth2", VIRTUAL6: "eth2", "127.0.0.1": "lo"}
    assert line.near.inside(lambda: kernel.foreign([])) == {}


def test_the_other_end_of_a_link_is_not_configured_here(line: Wire) -> None:
    line.near.ip(f"address add 192.0.2.1 peer {OTHER_SUBNET} dev eth2")
    assert line.near.inside(lambda: kernel.foreign([OTHER_SUBNET, "192.0.2.1"])) == {"192.0.2.1": "eth2"}


def test_what_cannot_be_added_is_said(line: Wire, addresses: Inside) -> None:
    with pytest.raises(KernelError, match=r"adding 172\.16\.0\.50 to gone: No such device"):
        addresses.add(VIRTUAL, "gone")
    with pytest.raises(KernelError, match="no address"):
        addresses.add("nonsense", "eth1")
    line.near.sysctl({"net/ipv6/conf/eth2/disable_ipv6": "1"})
    with pytest.raises(KernelError, match=f"adding {VIRTUAL6} to eth2"):
        addresses.add(VIRTUAL6, "eth2")


def test_among_many_addresses(line: Wire, addresses: Inside) -> None:
    line.near.ip(*(f"address add 10.9.{n // 250}.{n % 250 + 1}/32 dev lo" for n in range(3000)))
    addresses.add(VIRTUAL, "eth1")
    assert addresses.ours() == ((VIRTUAL, "eth1"),)


@pytest.mark.parametrize("route_localnet", ["0", "1"])
@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("172.16.0.2", "172.16.0.1"),
        ("198.51.100.1", "172.16.0.1"),
        ("192.0.2.9", "172.16.0.1"),
        ("224.0.0.251", "172.16.0.1"),
        ("2001:db8::2", "2001:db8::1"),
        ("2001:db8:99::1", "2001:db8::1"),
        ("2001:db8:5::9", "2001:db8::1"),
    ],
)
def test_no_program_gets_one_as_its_source(
    line: Wire, addresses: Inside, destination: str, expected: str, route_localnet: str
) -> None:
    """``route_localnet`` is what kube-proxy sets."""
    line.near.sysctl({"net/ipv4/conf/all/route_localnet": route_localnet})
    line.near.ip("route add default dev eth1", "route add ::/0 via fe80::1 dev eth1")
    line.near.ip("route add 192.0.2.0/24 dev eth1", "route add 2001:db8:5::/64 dev eth1")
    for address in EVERY:
        addresses.add(address, "eth1")
    assert source(line.near, destination) == expected
    assert f"src {expected} " in line.near.run("ip", "route", "get", destination) + " "


@pytest.mark.parametrize("route_localnet", ["0", "1"])
def test_the_first_address_of_the_interface_stays_the_nodes_own(
    line: Wire, addresses: Inside, route_localnet: str
) -> None:
    line.near.sysctl({"net/ipv4/conf/all/route_localnet": route_localnet})
    own = set(first_addresses(line.near, "eth1").values())
    assert own == {"172.16.0.1"}
    for address in (VIRTUAL, OTHER_SUBNET):
        addresses.add(address, "eth1")
    assert set(first_addresses(line.near, "eth1").values()) == own
    # A second address of the node in its subnet is listed last, and is none that programs choose.
    line.near.ip("address add 172.16.0.9/24 dev eth1")
    assert addresses.misplaced("eth1") == ()


def test_no_program_sees_a_virtual_ipv6_address_among_the_nodes(line: Wire, addresses: Inside) -> None:
    """The kernel lists the newest IPv6 address of an interface first: ours is on none."""
    own = first_addresses(line.near, "eth1", 6)
    assert set(own.values()) == {"2001:db8::1"}
    for address in (VIRTUAL6, OTHER_SUBNET6):
        addresses.add(address, "eth1")
    assert first_addresses(line.near, "eth1", 6) == own
    # An address on the interface would have been first: the list shows it.
    line.near.ip("address add 2001:db8::9/64 dev eth1 nodad")
    assert first_addresses(line.near, "eth1", 6)["getifaddrs"] == "2001:db8::9"


def test_an_address_is_last_again_after_the_nodes_own_came_back(line: Wire, addresses: Inside) -> None:
    """As a restart of systemd-networkd or of a DHCP client has it."""
    for address in (VIRTUAL, OTHER_SUBNET):
        addresses.add(address, "eth1")
    line.near.ip("address del 172.16.0.1/24 dev eth1", "address add 172.16.0.1/24 dev eth1")
    assert set(first_addresses(line.near, "eth1").values()) == {VIRTUAL}
    assert addresses.misplaced("eth1") == (VIRTUAL, OTHER_SUBNET)
    for address in addresses.misplaced("eth1"):
        addresses.add(address, "eth1")
    assert set(first_addresses(line.near, "eth1").values()) == {"172.16.0.1"}
    assert addresses.ours() == tuple(sorted((address, "eth1") for address in (VIRTUAL, OTHER_SUBNET)))


def put_on(interface: str, address: str) -> None:
    """Add an address with our mark as an older version did."""
    with Socket() as kernel_socket:
        body = _body(address, socket.if_nametoindex(interface), scope=RT_SCOPE_HOST)
        kernel_socket.request(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE, body)


def test_an_address_that_an_older_version_has_put_first_is_moved(line: Wire, addresses: Inside) -> None:
    line.near.inside(lambda: put_on("eth1", VIRTUAL))
    assert set(first_addresses(line.near, "eth1").values()) == {VIRTUAL}
    addresses.add(VIRTUAL, "eth1")
    assert set(first_addresses(line.near, "eth1").values()) == {"172.16.0.1"}


@pytest.mark.parametrize("destination", ["192.0.2.9", "2001:db8:5::9", "224.0.0.251"])
def test_not_even_where_the_interface_has_no_other_address(
    line: Wire, addresses: Inside, destination: str
) -> None:
    line.near.ip("route add 192.0.2.0/24 dev eth2", "route add 2001:db8:5::/64 dev eth2")
    line.near.ip("route add 224.0.0.0/4 dev eth2")
    for address in (OTHER_SUBNET, OTHER_SUBNET6):
        addresses.add(address, "eth2")
    assert source(line.near, destination) not in EVERY


def test_no_route_comes_but_the_local_one(line: Wire, addresses: Inside) -> None:
    def routes() -> set[str]:
        both = line.near.run("ip", "route", "show", "table", "all")
        return set((both + line.near.run("ip", "-6", "route", "show", "table", "all")).splitlines())

    before = routes()
    for address in EVERY:
        addresses.add(address, "eth1")

    def local() -> bool:
        new = routes() - before
        return {route.split()[1] for route in new} == {*EVERY} and all(
            route.startswith("local ") for route in new
        )

    until(local, "local routes to the four, and no other")
    for address in EVERY:
        addresses.remove(address, "eth1")
    until(lambda: routes() == before, "all routes are as they were")


@pytest.mark.parametrize("flapped", [False, True], ids=["", "after the link was down"])
def test_nothing_is_sent_at_adding_and_who_asks_is_answered(
    line: Wire, addresses: Inside, flapped: bool
) -> None:
    with answering(line.near) as announcer, Witness(line.far) as witness:
        for address in (VIRTUAL, VIRTUAL6):
            addresses.add(address, "eth1")
            line.near.inside(lambda address=address: announcer.answer(address, "eth1"))  # type: ignore[misc]
        assert witness.since_mark(line.near) == []
        if flapped:
            line.near.ip(
                "link set eth1 down", "link set eth1 up", "address add 2001:db8::1/64 dev eth1 nodad"
            )
            addresses.add(VIRTUAL6, "eth1")
            line.near.inside(lambda: announcer.answer(VIRTUAL6, "eth1"))
        for address in (VIRTUAL, VIRTUAL6):
            line.far.run("ping", "-n", "-c", "1", "-W", "5", address)
            listed = json.loads(line.far.run("ip", "-j", "neighbour", "show", address))
            assert listed[0]["lladdr"] == line.mac(line.near)


def test_they_bear_our_mark(line: Wire, addresses: Inside) -> None:
    addresses.add(VIRTUAL, "eth1")
    addresses.add(VIRTUAL6, "eth1")

    def ours() -> set[tuple[str, int, bool]]:
        with Socket() as socket_:
            return {(found.address, found.length, found.ours) for found in kernel.observe(socket_, BOTH)}

    assert line.near.inside(ours) == {(VIRTUAL, 32, True)}
    assert f"inet {VIRTUAL}/32 scope global eth1" in line.near.run("ip", "address", "show", "dev", "eth1")
    listed = line.near.run("ip", "-6", "route", "show", "table", "local", "proto", str(ids.PROTOCOL))
    assert listed.startswith(f"local {VIRTUAL6} dev eth1 ")


def test_an_ipv6_address_that_an_older_version_has_put_on_the_interface_leaves_it(
    line: Wire, addresses: Inside
) -> None:
    for come in (addresses.remove, addresses.add):
        line.near.inside(lambda: put_on("eth1", VIRTUAL6))
        assert addresses.ours() == ((VIRTUAL6, "eth1"),)
        come(VIRTUAL6, "eth1")
        assert VIRTUAL6 not in line.near.run("ip", "address", "show", "dev", "eth1")
    assert addresses.ours() == ((VIRTUAL6, "eth1"),)


def test_what_comes_for_an_address_is_taken_in_at_once(line: Wire) -> None:
    """For an address on an interface the kernel makes the route later: in most of these rounds it would be missing."""
    raw = socket.inet_pton(socket.AF_INET6, VIRTUAL6)
    question = RTMSG.pack(RouteHeader(socket.AF_INET6, 128), attribute(RTA_DST, raw))

    def taken_in(times: int) -> int:
        local = 0
        with Socket() as kernel_socket, contextlib.closing(Addresses()) as addresses:
            for _ in range(times):
                addresses.add(VIRTUAL6, "eth1")
                local += RTMSG.read(kernel_socket.request(RTM_GETROUTE, 0, question)).kind == RTN_LOCAL
                addresses.remove(VIRTUAL6, "eth1")
        return local

    assert line.near.inside(lambda: taken_in(100)) == 100


def test_nothing_of_a_route_is_left(line: Wire, addresses: Inside) -> None:
    def routes() -> str:
        return line.near.run("ip", "-6", "route", "show", "table", "all", VIRTUAL6)

    addresses.add(VIRTUAL6, "eth1")
    assert "local" in routes()
    addresses.remove(VIRTUAL6, "eth1")
    until(lambda: not routes(), "the kernel's own is gone too")


def test_listing_them_costs_no_more_with_many_routes(line: Wire) -> None:
    """The lease daemon lists them each second: what reads a full routing table there is late with its leases."""

    def cost() -> float:
        with contextlib.closing(Addresses()) as addresses:
            addresses.add(VIRTUAL6, "eth1")
            begun = time.thread_time()
            assert addresses.ours() == ((VIRTUAL6, "eth1"),)
            return time.thread_time() - begun

    before = min(line.near.inside(cost) for _ in range(5))
    line.near.ip(*(f"route add 2001:db8:{number:x}::/48 dev eth1" for number in range(0x100, 10_000)))
    assert min(line.near.inside(cost) for _ in range(5)) < 5 * before


def processor_time(addresses: Inside, count: int) -> float:
    """Return the seconds of a processor for that many addresses: to add them together, and to look for others."""
    some = [(f"172.17.{number // 250}.{number % 250 + 1}", "eth1") for number in range(count)]
    before = time.process_time()
    addresses.add_together(some)
    assert len(addresses.ours()) == count
    assert addresses.misplaced("eth1") == ()
    addresses.remove_together(some)
    assert addresses.ours() == ()
    return time.process_time() - before


def test_many_addresses_cost_each_what_few_do(addresses: Inside) -> None:
    few = min(processor_time(addresses, 50) for _ in range(3))
    assert processor_time(addresses, 500) < 40 * few
