"""The kernel's connection table by netlink: what ``conntrack`` cannot do, or not in a millisecond."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Union

from ..errors import refused
from . import netfilter
from .constants import (
    CTA_FILTER,
    CTA_FILTER_FLAG_IP_SRC,
    CTA_FILTER_ORIG_FLAGS,
    CTA_FILTER_REPLY_FLAGS,
    CTA_ID,
    CTA_IP_DST,
    CTA_IP_SRC,
    CTA_MARK,
    CTA_MARK_MASK,
    CTA_PROTOINFO,
    CTA_PROTOINFO_TCP,
    CTA_PROTOINFO_TCP_FLAGS,
    CTA_TUPLE_IP,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_REPLY,
    CTA_ZONE,
    FAMILIES,
    IP_CT_TCP_FLAG_BE_LIBERAL,
    IPCTNL_MSG_CT_DELETE,
    IPCTNL_MSG_CT_GET,
    IPCTNL_MSG_CT_NEW,
    NLM_F_ACK,
)
from .messages import NFGENMSG, Message, NetfilterHeader, Request, attribute, attributes, nested
from .netlink_socket import Socket

MAX_REQUESTS_PER_SEND = 200
Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


def delete_marked(mark: int, mask: int) -> None:
    """Delete the connections with this mark under ``mask``; of a large table in some milliseconds.

    Raises :class:`~cni.kernel.errors.KernelError`.
    """
    body = NFGENMSG.pack(NetfilterHeader(), _marked(mark, mask))
    try:
        with netfilter.opened() as netlink:
            netlink.request(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, body)
    except OSError as error:
        raise refused("forgetting connections", error.errno or errno.EIO) from error


def delete_of(address: str) -> int:
    """Delete every connection that ``address`` has opened or answers, of whatever protocol. Return their number.

    The kernel filters IPv4 (Linux 5.8); an older one passes over what it does not know and lists everything, so each
    entry is compared. Raises :class:`~cni.kernel.errors.KernelError`.
    """
    try:
        with netfilter.opened() as netlink:
            return _delete_listed(netlink, ipaddress.ip_address(address))
    except OSError as error:
        raise refused(f"forgetting the connections of {address}", error.errno or errno.EIO) from error


def _delete_listed(netlink: Socket, address: Address) -> int:
    header = NFGENMSG.pack(NetfilterHeader(FAMILIES[address.version]))
    source = nested(CTA_TUPLE_IP, attribute(CTA_IP_SRC[address.version], address.packed))
    deleted = 0
    for kind, flags in (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS), (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS):
        wanted = nested(CTA_FILTER, attribute(flags, struct.pack("=I", CTA_FILTER_FLAG_IP_SRC)))
        # The filter for IPv6 lists all but the wanted (ctnetlink_filter_match_tuple(), seen on Linux 6.18).
        chosen = nested(kind, source) + wanted if address.version == 4 else b""
        for message in netlink.dump(IPCTNL_MSG_CT_GET, header + chosen):
            if source_of(message.body, kind) == address.packed:
                deleted += _delete(netlink, header, message.body)
    return deleted


def source_of(listed: bytes, kind: int) -> bytes:
    """Return the source address of one direction (``CTA_TUPLE_ORIG`` or ``…_REPLY``) of a listed connection."""
    version = 6 if NFGENMSG.read(listed).family == socket.AF_INET6 else 4
    return _end(NFGENMSG.attributes(listed), kind, CTA_IP_SRC[version], 16 if version == 6 else 4)


def _end(connection: dict[int, bytes], direction: int, kind: int, size: int) -> bytes:
    """Return one address, of ``size`` bytes, of one direction of a connection; shorter or empty if it has none."""
    ends = attributes(attributes(connection.get(direction, b"")).get(CTA_TUPLE_IP, b""))
    return ends.get(kind, b"")[:size]


def _delete(netlink: Socket, header: bytes, listed: bytes) -> bool:
    """Delete one connection as it was listed. Return False if it has ended meanwhile."""
    connection = NFGENMSG.attributes(listed)
    if CTA_TUPLE_ORIG not in connection:
        return False
    body = header + nested(CTA_TUPLE_ORIG, connection[CTA_TUPLE_ORIG])
    # The identity keeps a connection that has just taken the place of this one; the zone is part of the key.
    body += b"".join(attribute(kind, connection[kind]) for kind in (CTA_ID, CTA_ZONE) if kind in connection)
    try:
        netlink.request(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, body)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def set_tcp_liberal(address: str, mark: int) -> int:
    """Set IP_CT_TCP_FLAG_BE_LIBERAL on the TCP connections with all bits of ``mark`` that are SNATed to ``address``.

    The kernel then takes whatever sequence numbers come: the connections go on by another master, and may come back
    far ahead. Returns their number. Raises :class:`~cni.kernel.errors.KernelError`.
    """
    parsed = ipaddress.ip_address(address)
    header = NFGENMSG.pack(NetfilterHeader(FAMILIES[parsed.version]))
    try:
        with netfilter.opened() as netlink:
            listed = netlink.dump(IPCTNL_MSG_CT_GET, header + _marked(mark, mark))
            changes = [
                Request(IPCTNL_MSG_CT_NEW, 0, header + change) for change in _liberal_tcp(listed, parsed)
            ]
            for first in range(0, len(changes), MAX_REQUESTS_PER_SEND):
                netlink.send(changes[first : first + MAX_REQUESTS_PER_SEND])
    except OSError as error:
        raise refused("loosening connections", error.errno or errno.EIO) from error
    return len(changes)


def _marked(mark: int, mask: int) -> bytes:
    return attribute(CTA_MARK, struct.pack("!I", mark)) + attribute(CTA_MARK_MASK, struct.pack("!I", mask))


def _liberal_tcp(listed: Iterable[Message], address: Address) -> Iterator[bytes]:
    """Yield the attributes that make each listed TCP connection with this address liberal."""
    flags = struct.pack("BB", IP_CT_TCP_FLAG_BE_LIBERAL, IP_CT_TCP_FLAG_BE_LIBERAL)
    both = (attribute(kind, flags) for kind in CTA_PROTOINFO_TCP_FLAGS)
    change = nested(CTA_PROTOINFO, nested(CTA_PROTOINFO_TCP, *both))
    for message in listed:
        connection = NFGENMSG.attributes(message.body)
        shown = _end(connection, CTA_TUPLE_REPLY, CTA_IP_DST[address.version], len(address.packed))
        is_tcp = CTA_PROTOINFO_TCP in attributes(connection.get(CTA_PROTOINFO, b""))
        if is_tcp and shown == address.packed and CTA_TUPLE_ORIG in connection:
            yield nested(CTA_TUPLE_ORIG, connection[CTA_TUPLE_ORIG]) + change
