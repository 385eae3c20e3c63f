"""Connections as bytes: what is read of a listed one, what is asked for, and which of those listed are deleted."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Callable

import pytest

from cni.kernel.netlink.conntrack import ctnetlink
from cni.kernel.netlink.conntrack.connections import Connection, from_source, to_destination, with_mark
from cni.kernel.netlink.constants import (
    CTA_FILTER,
    CTA_ID,
    CTA_IP_DST,
    CTA_IP_SRC,
    CTA_TUPLE_IP,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_REPLY,
    NLM_F_DUMP_INTR,
    NLMSG_ERROR,
    TCP_CONNTRACK_TIME_WAIT,
)
from cni.kernel.netlink.messages import NFGENMSG, NetfilterHeader, Request, attribute, encode, nested
from cni.kernel.netlink.netlink_socket import Socket
from tests.fuzz.netlink import Answers

from ..listed_connections import TCP_CONNTRACK_ESTABLISHED, direction, listed, listing, tcp

POD, REMOTE, SERVICE, SHOWN = "10.244.1.5", "203.0.113.9", "10.96.0.10", "172.16.0.50"
POD6, REMOTE6, SHOWN6 = "fd00::5", "2001:db8::9", "fd00:172::50"
TUNNELED = 0x08000000


def acknowledged(number: int, code: int = 0) -> bytes:
    return encode(Request(NLMSG_ERROR, 0, struct.pack("=i", -code)), 0, number)


def delete_opened(*sources: str, to: str = "") -> Callable[[Socket], int]:
    stale = {ipaddress.ip_address(source): lambda remote: to in ("", remote) for source in sources}
    return lambda kernel: ctnetlink._delete_opened(kernel, stale)


@pytest.mark.parametrize(
    ("source", "remote", "shown"), [(POD, REMOTE, SHOWN), (POD6, REMOTE6, SHOWN6)], ids=["IPv4", "IPv6"]
)
def test_the_parts_of_a_listed_connection(source: str, remote: str, shown: str) -> None:
    body = listed(source, remote, shown, 0x08100000, socket.IPPROTO_TCP, 7)
    connection = Connection(body)
    read = {
        source: connection.source(CTA_TUPLE_ORIG),
        remote: connection.source(CTA_TUPLE_REPLY),
        shown: connection.destination(CTA_TUPLE_REPLY),
    }
    assert read == {address: ipaddress.ip_address(address).packed for address in read}
    assert connection.destination(CTA_TUPLE_ORIG) == connection.source(CTA_TUPLE_REPLY)
    assert (connection.protocol, connection.mark, connection.zone) == (socket.IPPROTO_TCP, 0x08100000, 7)
    assert connection.key == direction(CTA_TUPLE_ORIG, source, remote, socket.IPPROTO_TCP)
    assert connection.identity == attribute(CTA_ID, b"\1\2\3\4")


def test_a_connection_without_any_part_has_none() -> None:
    connection = Connection(NFGENMSG.pack(NetfilterHeader(socket.AF_INET)))
    assert connection.source(CTA_TUPLE_ORIG) == connection.destination(CTA_TUPLE_REPLY) == b""
    assert (connection.key, connection.identity) == (b"", b"")
    assert (connection.protocol, connection.mark, connection.zone) == (0, 0, 0)


def test_the_kernel_is_asked_to_compare_only_what_it_compares_rightly() -> None:
    address = ipaddress.ip_address(SHOWN)
    assert with_mark(0x10, 0xF0) == bytes.fromhex("08000800000000100800150000 0000f0".replace(" ", ""))
    tuple_of = {
        CTA_IP_SRC[4]: from_source(CTA_TUPLE_ORIG, address),
        CTA_IP_DST[4]: to_destination(CTA_TUPLE_REPLY, address),
    }
    flags = {CTA_IP_SRC[4]: (1, 1), CTA_IP_DST[4]: (2, 2)}
    for (kind, wanted), name in zip(tuple_of.items(), (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY), strict=True):
        compared = attribute(flags[kind][0], struct.pack("=I", flags[kind][1]))
        ends = nested(CTA_TUPLE_IP, attribute(kind, address.packed))
        assert wanted == nested(name, ends) + nested(CTA_FILTER, compared)
    assert from_source(CTA_TUPLE_ORIG, ipaddress.ip_address(POD6)) == b""


@pytest.mark.parametrize(
    ("body", "deleted"),
    [
        (listed(POD, REMOTE), 1),
        (listed(POD, REMOTE, SHOWN, protocol=47), 1),
        (listed(POD, REMOTE, protocol=socket.IPPROTO_TCP), 0),
        (listed(POD, SERVICE), 0),
        (listed(SHOWN, REMOTE), 0),
        (listed(REMOTE, POD), 0),
        (listed(POD, REMOTE, zone=7), 0),
    ],
    ids=[
        "stale",
        "other protocol",
        "TCP",
        "another remote",
        "of another",
        "answered by the pod",
        "other zone",
    ],
)
def test_only_what_a_pod_opened_to_a_remote_with_another_path_is_deleted(body: bytes, deleted: int) -> None:
    with Answers([listing([body]), acknowledged(2)]) as kernel:
        assert delete_opened(POD, to=REMOTE)(kernel) == deleted


def test_each_source_has_its_own_function_and_many_are_listed_once() -> None:
    sources = [f"10.244.1.{number}" for number in range(1, ctnetlink.MAX_SINGLE_SOURCES + 2)]
    bodies = [listed(source, REMOTE) for source in sources]
    with Answers([listing(bodies), *(acknowledged(number) for number in range(2, 20))]) as kernel:
        assert delete_opened(*sources)(kernel) == len(sources)


def test_open_connections_are_counted_one_by_one() -> None:
    states = (TCP_CONNTRACK_ESTABLISHED, TCP_CONNTRACK_ESTABLISHED, TCP_CONNTRACK_TIME_WAIT)
    bodies = [*(tcp(POD, REMOTE, state) for state in states), listed(POD, SERVICE), listed(SHOWN, REMOTE)]
    with Answers([listing(bodies)]) as kernel:
        found = list(ctnetlink._open_connections(kernel, [ipaddress.ip_address(POD)]))
    assert found == [(POD, REMOTE), (POD, REMOTE), (POD, SERVICE)]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (listed(POD, REMOTE, SHOWN, TUNNELED | 0x100000), 1),
        (listed(POD, REMOTE, SHOWN, 0x100000), 0),
        (listed(POD, REMOTE, "172.16.0.51", TUNNELED), 0),
        (listed(POD, REMOTE, SHOWN, TUNNELED, zone=7), 0),
    ],
    ids=["ours", "without our mark", "by another address", "other zone"],
)
def test_only_what_has_our_mark_and_the_address_is_ours(body: bytes, found: int) -> None:
    with Answers([listing([body])]) as kernel:
        assert len(list(ctnetlink._shown(kernel, ipaddress.ip_address(SHOWN), TUNNELED))) == found


def test_a_connection_that_is_gone_meanwhile_is_no_error() -> None:
    bodies = [listed(POD, REMOTE), listed(POD, SERVICE)]
    with Answers([listing(bodies), acknowledged(2, errno.ENOENT), acknowledged(3)]) as kernel:
        assert delete_opened(POD)(kernel) == 1


def test_another_refusal_of_a_deletion_is_one() -> None:
    with (
        Answers([listing([listed(POD, REMOTE)]), acknowledged(2, errno.EPERM)]) as kernel,
        pytest.raises(PermissionError),
    ):
        delete_opened(POD)(kernel)


def test_a_listing_that_was_interrupted_is_repeated() -> None:
    old, new = listed(SHOWN, REMOTE), listed(POD, REMOTE)
    with Answers([listing([old], 1, NLM_F_DUMP_INTR), listing([new], 2), acknowledged(3)]) as kernel:
        assert delete_opened(POD)(kernel) == 1
