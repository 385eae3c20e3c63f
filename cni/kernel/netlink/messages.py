"""Netlink messages as bytes: built from typed headers and attributes, and taken apart again. Pure.

A message is a header (``struct nlmsghdr``) and a body. The body is a header of the protocol, one of the layouts below,
and attributes: length, type, value, and padding to 4 bytes.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Callable, Generic, NamedTuple, TypeVar

from .constants import NLA_F_NESTED, NLA_TYPE_MASK

NLMSGHDR = struct.Struct("=IHHII")
"""Length, type, flags, sequence number, port."""
_NLATTR = struct.Struct("=HH").unpack_from
ADDRESS_FAMILIES = {4: socket.AF_INET, 16: socket.AF_INET6}
"""Address families by the length of an address in bytes."""
H = TypeVar("H", bound="tuple[int, ...]")


class Request(NamedTuple):
    """A message to the kernel."""

    kind: int
    """Message type, such as ``RTM_GETLINK``."""
    flags: int
    """Flags besides ``NLM_F_REQUEST``."""
    body: bytes


class Message(NamedTuple):
    """A message from the kernel."""

    kind: int
    flags: int
    sequence: int
    """Number of the request that the message answers; 0: none."""
    body: bytes


class LinkHeader(NamedTuple):
    """``struct ifinfomsg``."""

    family: int = socket.AF_UNSPEC
    device_type: int = 0
    interface: int = 0
    """The interface's number."""
    flags: int = 0
    change: int = 0


class AddressHeader(NamedTuple):
    """``struct ifaddrmsg``."""

    family: int = socket.AF_UNSPEC
    length: int = 0
    """Length of the prefix, in bits."""
    flags: int = 0
    scope: int = 0
    interface: int = 0
    """The interface's number."""


class RouteHeader(NamedTuple):
    """``struct rtmsg``."""

    family: int = socket.AF_UNSPEC
    length: int = 0
    """Length of the destination's prefix, in bits."""
    source_length: int = 0
    tos: int = 0
    table: int = 0
    protocol: int = 0
    scope: int = 0
    kind: int = 0
    """``RTN_UNICAST``, ``RTN_LOCAL`` …"""
    flags: int = 0


class NextHopHeader(NamedTuple):
    """``struct rtnexthop``: the head of one of several next hops in ``RTA_MULTIPATH``."""

    length: int
    """Length in bytes, with the attributes behind this header."""
    flags: int
    hops: int
    interface: int


class NeighbourHeader(NamedTuple):
    """``struct ndmsg``."""

    family: int
    interface: int
    state: int
    flags: int = 0
    kind: int = 0


class NetfilterHeader(NamedTuple):
    """``struct nfgenmsg``."""

    family: int = socket.AF_UNSPEC
    version: int = 0
    resource: int = 0
    """The subsystem of a batch, or the group of the packet log."""


class Layout(Generic[H]):
    """The layout of the header of a body, in bytes."""

    def __init__(self, layout: str, header: Callable[..., H]) -> None:
        """``layout``: as :mod:`struct` writes it, one number for each field of ``header``."""
        self._struct = struct.Struct(layout)
        self._header = header
        self.size = self._struct.size
        """Length of the header in bytes."""

    def pack(self, header: H, *attributes: bytes) -> bytes:
        """Return a body."""
        return self._struct.pack(*header) + b"".join(attributes)

    def read(self, body: bytes) -> H:
        """Return the header of a body. Raises OSError (EBADMSG) if the body is shorter."""
        if len(body) < self.size:
            raise malformed()
        return self._header(*self._struct.unpack_from(body))

    def attributes(self, body: bytes) -> dict[int, bytes]:
        """Return the attributes after the header, as :func:`attributes`."""
        return attributes(body[self.size :])


IFINFOMSG = Layout("=BxHiII", LinkHeader)
IFADDRMSG = Layout("=BBBBI", AddressHeader)
RTMSG = Layout("=BBBBBBBBI", RouteHeader)
RTNEXTHOP = Layout("=HBBI", NextHopHeader)
NDMSG = Layout("=BxxxiHBB", NeighbourHeader)
NFGENMSG = Layout("!BBH", NetfilterHeader)
RTGENMSG = bytes(4)
"""``struct rtgenmsg`` of any family, padded."""


def encode(request: Request, flags: int, sequence: int) -> bytes:
    """Return a whole message, padded to 4 bytes; ``flags`` are added to those of the request."""
    length = NLMSGHDR.size + len(request.body)
    head = NLMSGHDR.pack(length, request.kind, request.flags | flags, sequence, 0)
    return head + request.body + bytes(-length % 4)


def split(data: bytes) -> Iterator[Message]:
    """Yield the messages in the bytes of one ``recv``, up to the first malformed one."""
    offset = 0
    while offset + NLMSGHDR.size <= len(data):
        length, kind, flags, sequence, _ = NLMSGHDR.unpack_from(data, offset)
        if length < NLMSGHDR.size:
            return
        yield Message(kind, flags, sequence, data[offset + NLMSGHDR.size : offset + length])
        offset += _aligned(length)


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded to 4 bytes."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """Return an attribute whose value is attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """Return an attribute whose value is a text with NUL at its end; undecodable bytes are surrogates."""
    return attribute(kind, value.encode(errors="surrogateescape") + b"\0")


def attributes(data: bytes) -> dict[int, bytes]:
    """Return values by type, without the flags in the two highest bits of a type; the last value of a type counts."""
    return dict(sequence(data))


def sequence(data: bytes) -> list[tuple[int, bytes]]:
    """Return type and value of each attribute, in order, up to the first that is malformed."""
    # One loop without calls: the attributes of hundreds of interfaces are listed at each pod start.
    found = []
    offset, last = 0, len(data) - 4
    while offset <= last:
        length, kind = _NLATTR(data, offset)
        if length < 4:
            break
        found.append((kind & NLA_TYPE_MASK, data[offset + 4 : offset + length]))
        offset += length + 3 & ~3
    return found


def first(data: bytes, kind: int) -> bytes:
    """Return the value of the first attribute of this type; empty if there is none.

    In a listing of a hundred thousand connections, the wanted attribute is among the first ones of each.
    """
    offset, last = 0, len(data) - 4
    while offset <= last:
        length, found = _NLATTR(data, offset)
        if length < 4:
            break
        if found & NLA_TYPE_MASK == kind:
            return data[offset + 4 : offset + length]
        offset += length + 3 & ~3
    return b""


def integer(value: bytes) -> int:
    """Return the number in the first four bytes of a value, in the machine's order; 0 if there is none."""
    return int.from_bytes(value[:4], sys.byteorder)


def signed(value: bytes) -> int:
    """Return the signed number in the first four bytes of a value. Raises OSError (EBADMSG) if it is shorter."""
    if len(value) < 4:
        raise malformed()
    return int.from_bytes(value[:4], sys.byteorder, signed=True)


def malformed() -> OSError:
    """Return the error for a message of the kernel that is no message of its kind."""
    return OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))


def decoded(value: bytes, errors: str = "replace") -> str:
    """Return the text of a value, without the NUL at its end."""
    return value.rstrip(b"\0").decode(errors=errors)


def address(raw: bytes) -> str:
    """Return the IP address with these bytes; empty if the bytes are no address."""
    family = ADDRESS_FAMILIES.get(len(raw))
    return socket.inet_ntop(family, raw) if family else ""


def _aligned(length: int) -> int:
    return length + 3 & ~3
