"""Connections in the kernel's own table: found by address, protocol and mark, and deleted, in both IP versions."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cni.kernel.netlink.conntrack import ctnetlink
from tests.lab.namespace import Namespace, fresh

MARK = 0x08000000
THOUSANDS = 4000
ENDS = {
    "ipv4": ("10.244.0.10", "10.244.0.11", "203.0.113.1", "172.16.0.50"),
    "ipv6": ("fd00:244::10", "fd00:244::11", "2001:db8::1", "fd00:172::50"),
}
"""A pod, another pod, a server and a virtual address, by family."""


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with fresh("egwct-table") as made:
        yield made


@pytest.fixture(params=ENDS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def add(
    machine: Namespace,
    protocol: str,
    source: str,
    destination: str,
    *more: str,
    answerer: str = "",
    shown: str = "",
    port: int = 7200,
) -> None:
    """Add a connection; ``answerer``: its destination behind a DNAT, ``shown``: its source behind an SNAT."""
    ends = ["--src", source, "--dst", destination]
    ends += ["--reply-src", answerer or destination, "--reply-dst", shown or source]
    ports = [
        "--sport",
        f"{port}",
        "--dport",
        "9000",
        "--reply-port-src",
        "9000",
        "--reply-port-dst",
        f"{port}",
    ]
    if protocol.startswith("icmp"):
        values = {"type": "8" if protocol == "icmp" else "128", "code": "0", "id": "7"}
        ports = [each for name in values for each in (f"--{protocol}-{name}", values[name])]
    states = ["--state", "ESTABLISHED"] if protocol == "tcp" else []
    machine.run("conntrack", "-I", "-p", protocol, *ends, *ports, *states, "-t", "100", *more)


def left(machine: Namespace, family: str) -> list[str]:
    return machine.run("conntrack", "-L", "-f", family).splitlines()


def test_the_connections_of_an_address_are_deleted_and_no_others(machine: Namespace, family: str) -> None:
    """Those that the address has opened, and those that it answers."""
    pod, other, outside, _ = ENDS[family]
    for protocol in ("udp", "tcp"):
        for source, destination in ((pod, outside), (outside, pod), (other, outside)):
            add(machine, protocol, source, destination)
    add(machine, "udp", pod, outside, "--zone", "7")
    assert machine.inside(lambda: ctnetlink.delete_of(pod)) == 4
    remaining = left(machine, family)
    assert len(remaining) == 3
    assert all(f"src={other} " in line or "zone=7" in line for line in remaining)


@pytest.mark.parametrize("pods", [1, ctnetlink.MAX_SINGLE_SOURCES + 1])
def test_what_a_pod_opened_to_a_remote_address_is_deleted_except_tcp(
    machine: Namespace, family: str, pods: int
) -> None:
    """The remote address is the one behind a DNAT."""
    pod, other, outside, service = ENDS[family]
    icmp = "icmp" if family == "ipv4" else "icmpv6"
    for protocol in ("udp", "tcp", icmp):
        add(machine, protocol, pod, outside)
    add(machine, "udp", pod, service, answerer=outside, port=7201)
    add(machine, "udp", pod, other)
    add(machine, "udp", other, outside)
    add(machine, "udp", outside, pod)
    add(machine, "udp", pod, outside, "--zone", "7")
    stale = {pod: lambda remote: remote == outside}
    more = {f"{other[:-2]}{20 + number}": lambda _: True for number in range(pods - 1)}
    known = sorted([*[(pod, outside)] * 4, (pod, other)])
    assert sorted(machine.inside(lambda: ctnetlink.open_connections({pod, *more}))) == known
    assert machine.inside(lambda: ctnetlink.delete_opened({**stale, **more})) == 3
    remaining = left(machine, family)
    assert len(remaining) == 5
    assert machine.inside(lambda: ctnetlink.open_connections({outside})) == ((outside, pod),)
    assert sum(line.startswith("tcp") for line in remaining) == 1
    assert sum("zone=7" in line for line in remaining) == 1
    assert machine.inside(lambda: ctnetlink.delete_opened({other: lambda _: False})) == 0


def test_what_is_shown_by_an_address_is_deleted_only_with_our_mark(machine: Namespace, family: str) -> None:
    pod, other, outside, virtual = ENDS[family]
    ours = ("--mark", hex(MARK | 0x100000))
    add(machine, "udp", pod, outside, *ours, shown=virtual)
    add(machine, "tcp", pod, outside, *ours, shown=virtual)
    add(machine, "udp", other, outside, "--mark", "0x100000", shown=virtual, port=7201)
    add(machine, "udp", pod, other, *ours)
    add(machine, "udp", pod, outside, *ours, "--zone", "7", shown=virtual)
    assert machine.inside(lambda: ctnetlink.set_tcp_liberal(virtual, MARK)) == 1
    assert machine.inside(lambda: ctnetlink.delete_shown(virtual, MARK)) == 2
    assert len(left(machine, family)) == 3
    assert machine.inside(lambda: ctnetlink.delete_shown(virtual, MARK)) == 0


def test_an_address_without_connections_is_no_error(machine: Namespace, family: str) -> None:
    pod, _, _, virtual = ENDS[family]
    assert machine.inside(lambda: ctnetlink.delete_of(pod)) == 0
    assert machine.inside(lambda: ctnetlink.delete_opened({pod: lambda _: True})) == 0
    assert machine.inside(lambda: ctnetlink.delete_shown(virtual, MARK)) == 0


@pytest.mark.parametrize("source", ["127.0.0.1", "::1"])
def test_two_that_delete_the_same_thousands_delete_each_connection_once(
    machine: Namespace, source: str
) -> None:
    """What one has listed the other deletes, in the middle of its listing too."""
    version = "ip6" if ":" in source else "ip"
    machine.run(
        "nft",
        "add table inet t; add chain inet t c { type filter hook output priority 0; }; add rule inet t c ct state new",
    )
    with machine.socket(socket.AF_INET6 if version == "ip6" else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for port in range(20_000, 20_000 + THOUSANDS):
            sender.sendto(b"?", (source, port))
    assert machine.run("conntrack", "-C").strip() == str(THOUSANDS)

    def delete() -> int:
        return machine.inside(lambda: ctnetlink.delete_opened({source: lambda _: True}))

    with ThreadPoolExecutor(max_workers=2) as threads:
        first, second = threads.submit(delete), threads.submit(delete)
    assert first.result() + second.result() == THOUSANDS
    assert machine.run("conntrack", "-C").strip() == "0"
