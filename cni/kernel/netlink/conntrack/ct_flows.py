"""Connections of the kernel's table as plain data: both directions, mark, counted bytes."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Callable
from typing import NamedTuple

from ...errors import refused
from .. import netfilter
from ..constants import (
    CTA_COUNTERS_BYTES,
    CTA_COUNTERS_ORIG,
    CTA_COUNTERS_REPLY,
    CTA_ID,
    CTA_IP_DST,
    CTA_IP_SRC,
    CTA_MARK,
    CTA_PROTO_DST_PORT,
    CTA_PROTO_ICMP_ID,
    CTA_PROTO_ICMPV6_ID,
    CTA_PROTO_NUM,
    CTA_PROTO_SRC_PORT,
    CTA_TUPLE_IP,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_PROTO,
    CTA_TUPLE_REPLY,
    FAMILIES,
    IPCTNL_MSG_CT_GET,
)
from ..messages import NFGENMSG, NetfilterHeader, address, attribute, attributes


class Ends(NamedTuple):
    """One direction of a connection."""

    source: str
    source_port: int
    """For ICMP the identifier, in the direction that opened the connection."""
    destination: str
    destination_port: int
    protocol: int
    """``IPPROTO_TCP`` …"""


class Flow(NamedTuple):
    """One connection."""

    original: Ends
    reply: Ends
    """The addresses and ports of answers. After source NAT their destination is the address that the outside sees."""
    mark: int
    identity: int
    """``CTA_ID``, a hash of 32 bits: other connections in the table may have the same."""
    bytes_out: int
    """Bytes of packets in the original direction; -1 if the kernel did not count them."""
    bytes_in: int


def flow(body: bytes) -> Flow | None:
    """Return the connection that a message of the connection table is about; None if the message is malformed."""
    found = NFGENMSG.attributes(body)
    try:
        return Flow(
            _ends(found[CTA_TUPLE_ORIG]),
            _ends(found[CTA_TUPLE_REPLY]),
            int.from_bytes(found.get(CTA_MARK, b""), "big"),
            int.from_bytes(found.get(CTA_ID, b""), sys.byteorder),
            _bytes(found.get(CTA_COUNTERS_ORIG)),
            _bytes(found.get(CTA_COUNTERS_REPLY)),
        )
    except LookupError:
        return None


def _ends(data: bytes) -> Ends:
    """Return one direction. Raises LookupError if a part is missing."""
    parts = attributes(data)
    ip, protocol = attributes(parts[CTA_TUPLE_IP]), attributes(parts[CTA_TUPLE_PROTO])
    version = 6 if CTA_IP_SRC[6] in ip else 4
    port = protocol.get(CTA_PROTO_SRC_PORT)
    if port is None:
        port = protocol.get(CTA_PROTO_ICMP_ID) or protocol.get(CTA_PROTO_ICMPV6_ID) or b""
    return Ends(
        address(ip[CTA_IP_SRC[version]]),
        int.from_bytes(port, "big"),
        address(ip[CTA_IP_DST[version]]),
        int.from_bytes(protocol.get(CTA_PROTO_DST_PORT, b""), "big"),
        protocol[CTA_PROTO_NUM][0],
    )


def _bytes(counters: bytes | None) -> int:
    if counters is None:
        return -1
    return int.from_bytes(attributes(counters).get(CTA_COUNTERS_BYTES, b""), "big")


def listed(version: int, filters: bytes, wanted: Callable[[bytes], bool]) -> list[Flow]:
    """Return the connections of an IP version whose message ``wanted`` accepts: most messages need no parsing.

    ``filters``: attributes by which the kernel chooses. Raises :class:`~cni.kernel.errors.KernelError`.
    """
    body = NFGENMSG.pack(NetfilterHeader(FAMILIES[version]), filters)
    try:
        with netfilter.opened() as netlink:
            found = [m.body for m in netlink.dump(IPCTNL_MSG_CT_GET, body) if wanted(m.body)]
    except OSError as error:
        raise refused("listing connections", error.errno or errno.EIO) from error
    return [each for each in map(flow, found) if each is not None]


def end_bytes(end: tuple[str, int], destination: bool) -> tuple[bytes, bytes]:
    """Return the two parts of a message by which a connection with this address and port as an end is found.

    ``destination``: the end is the destination of its direction, else the source.
    """
    version = 6 if ":" in end[0] else 4
    kind = CTA_PROTO_DST_PORT if destination else CTA_PROTO_SRC_PORT
    return socket.inet_pton(FAMILIES[version], end[0]), attribute(kind, struct.pack("!H", end[1]))
