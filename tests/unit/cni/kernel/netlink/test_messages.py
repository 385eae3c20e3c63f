"""Netlink messages: what is built is taken apart again, and malformed ones end the reading."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.kernel.netlink import messages
from cni.kernel.netlink.constants import NLA_F_NESTED, RTA_DST, RTM_GETROUTE
from cni.kernel.netlink.messages import (
    IFADDRMSG,
    IFINFOMSG,
    NDMSG,
    NFGENMSG,
    NLMSGHDR,
    RTMSG,
    RTNEXTHOP,
    Message,
    Request,
    RouteHeader,
    attribute,
    attributes,
    decoded,
    encode,
    nested,
    split,
    text,
)

pairs = st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), max_size=8)


@given(pairs)
def test_attributes_are_read_in_order_whatever_their_length(found: list[tuple[int, bytes]]) -> None:
    data = b"".join(attribute(kind, value) for kind, value in found)
    assert len(data) % 4 == 0
    assert list(messages.sequence(data)) == found
    assert attributes(data) == dict(found)


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_what_is_sent_at_once_is_split_into_messages(bodies: list[bytes]) -> None:
    data = b"".join(encode(Request(7, 0x100, body), 1, number) for number, body in enumerate(bodies))
    assert list(split(data)) == [Message(7, 0x101, number, body) for number, body in enumerate(bodies)]


@given(st.binary(max_size=80))
def test_anything_can_be_read(data: bytes) -> None:
    for message in split(data):
        attributes(message.body)
    list(messages.sequence(data))


def test_a_length_below_that_of_the_header_ends_the_reading() -> None:
    good = encode(Request(7, 0, b"body"), 0, 1)
    assert [message.body for message in split(good + NLMSGHDR.pack(15, 7, 0, 2, 0) + good)] == [b"body"]
    assert attributes(attribute(1, b"a") + struct.pack("=HH", 3, 2) + attribute(3, b"c")) == {1: b"a"}


def test_flags_of_a_type_do_not_count() -> None:
    inner = attribute(2, b"x")
    data = nested(1, inner)
    assert struct.unpack_from("=H", data, 2) == (1 | NLA_F_NESTED,)
    assert attributes(data) == {1: inner}


@pytest.mark.parametrize(
    ("layout", "size"),
    [(IFINFOMSG, 16), (IFADDRMSG, 8), (RTMSG, 12), (RTNEXTHOP, 8), (NDMSG, 12), (NFGENMSG, 4)],
)
def test_headers_have_the_size_of_the_kernels(layout: messages.Layout[tuple[int, ...]], size: int) -> None:
    assert layout.size == size


def test_a_body_is_header_and_attributes() -> None:
    header = RouteHeader(socket.AF_INET, 32, table=254, kind=1, flags=5)
    raw = socket.inet_aton("203.0.113.1")
    body = RTMSG.pack(header, attribute(RTA_DST, raw))
    assert body[:12] == bytes([socket.AF_INET, 32, 0, 0, 254, 0, 0, 1]) + struct.pack("=I", 5)
    assert (RTMSG.read(body), RTMSG.attributes(body)) == (header, {RTA_DST: raw})
    [message] = split(encode(Request(RTM_GETROUTE, 0, body), 0, 9))
    assert message == Message(RTM_GETROUTE, 0, 9, body)


def test_texts_and_addresses() -> None:
    assert decoded(attributes(text(3, "veth\udcff"))[3], "surrogateescape") == "veth\udcff"
    assert [messages.address(raw) for raw in (bytes(4), bytes(16), b"", bytes(5))] == [
        "0.0.0.0",
        "::",
        "",
        "",
    ]
