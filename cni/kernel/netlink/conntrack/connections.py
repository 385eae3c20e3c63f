"""Connections as the kernel lists them: source, destination, mark, key. And filters of a listing. Pure.

Each entry of the connection table has two tuples: that of its first packet, and that of an answer. Behind a DNAT the
source of an answer is another address than the destination of the first packet, behind an SNAT the destination of an
answer is not the source of the first packet. (``ct_flows`` reads all of a connection; of a whole table that is slow.)
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Union

from ..constants import (
    CTA_FILTER,
    CTA_FILTER_FLAG_IP_DST,
    CTA_FILTER_FLAG_IP_SRC,
    CTA_FILTER_ORIG_FLAGS,
    CTA_FILTER_REPLY_FLAGS,
    CTA_ID,
    CTA_IP_DST,
    CTA_IP_SRC,
    CTA_MARK,
    CTA_MARK_MASK,
    CTA_PROTO_NUM,
    CTA_PROTOINFO,
    CTA_PROTOINFO_TCP,
    CTA_PROTOINFO_TCP_STATE,
    CTA_TUPLE_IP,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_PROTO,
    CTA_TUPLE_REPLY,
    CTA_ZONE,
)
from ..messages import NFGENMSG, attribute, first, nested

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
_FLAGS = {CTA_TUPLE_ORIG: CTA_FILTER_ORIG_FLAGS, CTA_TUPLE_REPLY: CTA_FILTER_REPLY_FLAGS}


class Connection:
    """One listed connection. A part is parsed when it is read: of most connections only one part is read."""

    def __init__(self, body: bytes) -> None:
        """Raise OSError (EBADMSG) if the body of the message has no header."""
        self._version = 6 if NFGENMSG.read(body).family == socket.AF_INET6 else 4
        self._attributes = body[NFGENMSG.size :]

    def source(self, direction: int) -> bytes:
        """Return the source address of one direction (``CTA_TUPLE_ORIG`` or ``…_REPLY``); empty if there is none."""
        return self._end(direction, CTA_IP_SRC[self._version])

    def destination(self, direction: int) -> bytes:
        """Return the destination address of one direction; empty if there is none."""
        return self._end(direction, CTA_IP_DST[self._version])

    def _end(self, direction: int, kind: int) -> bytes:
        found = first(first(first(self._attributes, direction), CTA_TUPLE_IP), kind)
        return found if len(found) == (16 if self._version == 6 else 4) else b""

    @property
    def protocol(self) -> int:
        """The number of the IP protocol; 0 if there is none."""
        ends = first(first(self._attributes, CTA_TUPLE_ORIG), CTA_TUPLE_PROTO)
        return int.from_bytes(first(ends, CTA_PROTO_NUM), "big")

    @property
    def tcp_state(self) -> int:
        """The state of a TCP connection (``TCP_CONNTRACK_…``); 0 of others."""
        found = first(first(self._attributes, CTA_PROTOINFO), CTA_PROTOINFO_TCP)
        return int.from_bytes(first(found, CTA_PROTOINFO_TCP_STATE), "big")

    @property
    def mark(self) -> int:
        """The mark of the connection."""
        return int.from_bytes(first(self._attributes, CTA_MARK), "big")

    @property
    def zone(self) -> int:
        """The zone; 0 if no program has set a zone."""
        return int.from_bytes(first(self._attributes, CTA_ZONE), "big")

    @property
    def key(self) -> bytes:
        """The attribute that names this connection in a request; empty if it has none."""
        opened = first(self._attributes, CTA_TUPLE_ORIG)
        return nested(CTA_TUPLE_ORIG, opened) if opened else b""

    @property
    def identity(self) -> bytes:
        """The attribute that distinguishes this connection from a later one with the same tuple."""
        number = first(self._attributes, CTA_ID)
        return attribute(CTA_ID, number) if number else b""


def with_mark(mark: int, mask: int) -> bytes:
    """Return the attributes of a request for connections with this mark under ``mask``."""
    return attribute(CTA_MARK, struct.pack("!I", mark)) + attribute(CTA_MARK_MASK, struct.pack("!I", mask))


def from_source(direction: int, address: Address) -> bytes:
    """Return the attributes of a listing of connections with this source in one direction; none for IPv6.

    The kernel filters IPv4 since Linux 5.8; an older kernel ignores the unknown attribute and lists everything. For
    IPv6 it lists all but the wanted connections (``ctnetlink_filter_match_tuple()``, seen on Linux 6.18). So compare
    the listed connections.
    """
    return _filter(direction, address, CTA_IP_SRC[address.version], CTA_FILTER_FLAG_IP_SRC)


def to_destination(direction: int, address: Address) -> bytes:
    """Return the attributes of a listing of connections with this destination, as :func:`from_source`."""
    return _filter(direction, address, CTA_IP_DST[address.version], CTA_FILTER_FLAG_IP_DST)


def _filter(direction: int, address: Address, kind: int, flag: int) -> bytes:
    if address.version == 6:
        return b""
    compared = nested(CTA_FILTER, attribute(_FLAGS[direction], struct.pack("=I", flag)))
    return nested(direction, nested(CTA_TUPLE_IP, attribute(kind, address.packed))) + compared
