"""Malformed messages, which no kernel sends, are an error as any refusal of the kernel, or are passed over."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Callable

import pytest

from cni.kernel.errors import KernelError
from cni.kernel.netlink import addresses, entries, links, routes
from cni.kernel.netlink.conntrack import ctnetlink
from cni.kernel.netlink.conntrack.connections import Connection
from cni.kernel.netlink.constants import (
    CTA_TUPLE_ORIG,
    IPCTNL_MSG_CT_NEW,
    NFT_MSG_NEWGEN,
    NFT_MSG_TRACE,
    NLMSG_DONE,
    NLMSG_ERROR,
    RTA_GATEWAY,
    RTA_MULTIPATH,
    RTA_OIF,
    RTA_PRIORITY,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RTN_UNICAST,
)
from cni.kernel.netlink.messages import (
    NFGENMSG,
    RTMSG,
    Message,
    NetfilterHeader,
    Request,
    RouteHeader,
    attribute,
    encode,
    sequence,
)
from cni.kernel.netlink.netlink_socket import Socket
from cni.kernel.nftables import generation, table_digest
from gateway_agent.adapters.probes import nft_trace
from gateway_agent.lease_daemon.kernel import vip_addresses
from tests.fuzz.netlink import CONNECTION, Answers

ADDRESS = ipaddress.ip_address("10.1.0.5")
MINUS_ONE = struct.pack("=i", -1)


def answer(kind: int, body: bytes) -> bytes:
    """Return a listing of one message, or the answer to one request."""
    return encode(Request(kind, 0, body), 0, 1) + encode(Request(NLMSG_DONE, 0, bytes(4)), 0, 1)


def route(*parts: bytes) -> bytes:
    return answer(RTM_NEWROUTE, RTMSG.pack(RouteHeader(socket.AF_INET, kind=RTN_UNICAST), *parts))


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        (RTM_NEWADDR, lambda kernel: list(addresses.observe(kernel))),
        (RTM_NEWADDR, lambda kernel: list(addresses.observe(kernel, index=1))),
        (RTM_NEWLINK, lambda kernel: list(links._links_of(kernel, 0))),
        (RTM_NEWROUTE, vip_addresses._routed),
    ],
)
@pytest.mark.parametrize("body", [b"", b"\2\0"])
def test_a_message_shorter_than_its_header_is_an_error_of_the_kernel(
    kind: int, read: Callable[[Socket], object], body: bytes
) -> None:
    with Answers([answer(kind, body)]) as kernel, pytest.raises(KernelError, match="Bad message"):
        read(kernel)


@pytest.mark.parametrize(
    ("kind", "body", "read"),
    [
        (RTM_NEWROUTE, b"", lambda kernel: list(routes.listed(kernel, 4))),
        (RTM_NEWROUTE, b"", lambda kernel: links._namespace_number(kernel, 0)),
        (RTM_NEWNEIGH, b"\7", lambda kernel: list(entries.listed(kernel, socket.AF_BRIDGE, {0: "egw-1"}))),
        (NFT_MSG_NEWGEN, NFGENMSG.pack(NetfilterHeader()), generation._current),
        (NLMSG_ERROR, b"", lambda kernel: kernel.request(RTM_NEWADDR, 0, b"")),
        (NLMSG_DONE, b"\0", lambda kernel: kernel.dump(RTM_NEWADDR, b"")),
        (IPCTNL_MSG_CT_NEW, b"", lambda kernel: ctnetlink._delete_of(kernel, ADDRESS)),
        (IPCTNL_MSG_CT_NEW, b"", lambda kernel: list(ctnetlink._shown(kernel, ADDRESS, 1))),
    ],
)
def test_an_answer_without_its_number_is_an_error_of_the_system(
    kind: int, body: bytes, read: Callable[[Socket], object]
) -> None:
    with Answers([answer(kind, body)]) as kernel, pytest.raises(OSError) as raised:
        read(kernel)
    assert raised.value.errno == errno.EBADMSG


@pytest.mark.parametrize(
    "parts",
    [
        (attribute(RTA_OIF, MINUS_ONE),),
        (attribute(RTA_OIF, b"\1"), attribute(RTA_PRIORITY, b"\1")),
        (attribute(RTA_MULTIPATH, struct.pack("=HBBi", 8, 0, 0, -1)),),
        (attribute(RTA_MULTIPATH, bytes(8)), attribute(RTA_GATEWAY, b"")),
    ],
)
def test_a_route_by_no_interface_is_no_next_hop_by_another(parts: tuple[bytes, ...]) -> None:
    with Answers([route(*parts)]) as kernel:
        assert {hop.interface for hop in routes.listed(kernel, 4)} <= {"lo"}


def test_a_connection_without_its_own_direction_is_neither_deleted_nor_changed() -> None:
    kept = [attribute(k, v) for k, v in sequence(CONNECTION[NFGENMSG.size :]) if k != CTA_TUPLE_ORIG]
    body = CONNECTION[: NFGENMSG.size] + b"".join(kept)
    listing = [
        encode(Request(IPCTNL_MSG_CT_NEW, 0, body), 0, number)
        + encode(Request(NLMSG_DONE, 0, bytes(4)), 0, number)
        for number in (1, 2)
    ]
    with Answers(listing) as kernel:
        assert ctnetlink._delete_of(kernel, ADDRESS) == 0
    with Answers(listing) as kernel:
        assert ctnetlink._delete_opened(kernel, {ADDRESS: lambda _: True}) == 0
    assert list(ctnetlink._liberal_tcp([Connection(body)])) == []


def test_chains_and_sets_without_a_name_can_be_read() -> None:
    ends = [
        encode(Request(0, 0, NFGENMSG.pack(NetfilterHeader(1))), 0, number)
        + encode(Request(NLMSG_DONE, 0, bytes(4)), 0, number)
        for number in range(1, 7)
    ]
    with Answers(ends) as kernel:
        found = table_digest._read(kernel, 1, "x", b"mark")
    assert [each.name for each in found.sets] == [""]


def test_an_empty_event_of_a_trace_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError):
        nft_trace._step(Message(NFT_MSG_TRACE, 0, 0, b""))
