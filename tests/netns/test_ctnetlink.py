"""Connections of an address in the kernel's own table: found by it, and deleted, in both IP versions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cni.kernel.netlink import ctnetlink
from tests.lab.namespace import Namespace, fresh


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with fresh("egwct-table") as made:
        yield made


@pytest.mark.parametrize(
    ("pod", "other", "outside"),
    [
        ("10.244.0.10", "10.244.0.11", "203.0.113.1"),
        ("fd00:244::10", "fd00:244::11", "2001:db8::1"),
    ],
    ids=["IPv4", "IPv6"],
)
def test_the_connections_of_an_address_are_deleted_and_no_others(
    machine: Namespace, pod: str, other: str, outside: str
) -> None:
    """Those that the address has opened, and those that it answers."""
    for protocol, more in (("udp", ()), ("tcp", ("--state", "ESTABLISHED"))):
        for source, destination in ((pod, outside), (outside, pod), (other, outside)):
            ends = ("--src", source, "--dst", destination, "--sport", "7200", "--dport", "9000")
            machine.run("conntrack", "-I", "-p", protocol, *ends, "-t", "100", *more)
    assert machine.inside(lambda: ctnetlink.delete_of(pod)) == 4
    family = "ipv6" if ":" in pod else "ipv4"
    left = machine.run("conntrack", "-L", "-f", family).splitlines()
    assert len(left) == 2
    assert all(f"src={other} " in line for line in left)
