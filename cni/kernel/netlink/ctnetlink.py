"""The kernel's connection table by netlink: what ``conntrack`` cannot do, or not in a millisecond."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator

from ..errors import refused
from ..nftables.elements import NFGENMSG, NLA_F_NESTED
from .rtnetlink import NETLINK_NETFILTER, NLM_F_ACK, Socket, attribute, attributes

# linux/netfilter/nfnetlink.h, linux/netfilter/nfnetlink_conntrack.h
IPCTNL_MSG_CT_NEW = 1 << 8 | 0
IPCTNL_MSG_CT_GET = 1 << 8 | 1
IPCTNL_MSG_CT_DELETE = 1 << 8 | 2
CTA_TUPLE_ORIG = 1
CTA_TUPLE_REPLY = 2
CTA_PROTOINFO = 4
CTA_MARK = 8
CTA_MARK_MASK = 21
CTA_ID = 12
CTA_ZONE = 18
CTA_FILTER = 25
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
CTA_FILTER_FLAG_IP_SRC = 1 << 0
CTA_TUPLE_IP = 1
CTA_IP_SRC = {4: 1, 6: 3}
CTA_IP_DST = {4: 2, 6: 4}
CTA_PROTOINFO_TCP = 1
CTA_PROTOINFO_TCP_FLAGS = (4, 5)
"""Of the two directions."""
IP_CT_TCP_FLAG_BE_LIBERAL = 0x08
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
MAX_MESSAGES_PER_SEND = 200
"""Messages that are sent at once."""


def delete_marked(mark: int, mask: int) -> None:
    """Forgets the connections with this mark under ``mask``; those of a large table in some milliseconds."""
    body = NFGENMSG.pack(socket.AF_UNSPEC, 0, 0) + _marked(mark, mask)
    try:
        with Socket(NETLINK_NETFILTER) as netlink:
            netlink.request(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, body)
    except OSError as error:
        raise refused("forgetting connections", error.errno or errno.EIO) from error


def delete_of(address: str) -> int:
    """Delete every connection that ``address`` has opened or answers, of whatever protocol. Returns how many.

    The kernel filters (Linux 5.8); an older one passes over what it does not know and lists everything, so each entry
    is compared. Raises KernelError.
    """
    parsed = ipaddress.ip_address(address)
    head = NFGENMSG.pack(FAMILIES[parsed.version], 0, 0)
    source = _nested(CTA_TUPLE_IP, attribute(CTA_IP_SRC[parsed.version], parsed.packed))
    deleted = 0
    try:
        with Socket(NETLINK_NETFILTER) as netlink:
            for kind, flags in (
                (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS),
                (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS),
            ):
                wanted = _nested(CTA_FILTER, attribute(flags, struct.pack("=I", CTA_FILTER_FLAG_IP_SRC)))
                for _, body in netlink.dump(IPCTNL_MSG_CT_GET, head + _nested(kind, source) + wanted):
                    if source_of(body, kind) == parsed.packed:
                        deleted += _delete(netlink, head, body)
    except OSError as error:
        raise refused(f"forgetting the connections of {address}", error.errno or errno.EIO) from error
    return deleted


def source_of(listed: bytes, kind: int) -> bytes:
    """Return the source address of one direction (:data:`CTA_TUPLE_ORIG` or ``…_REPLY``) of a listed connection."""
    version = 6 if NFGENMSG.unpack_from(listed)[0] == socket.AF_INET6 else 4
    ends = attributes(attributes(attributes(listed[NFGENMSG.size :]).get(kind, b"")).get(CTA_TUPLE_IP, b""))
    return ends.get(CTA_IP_SRC[version], b"")[: 16 if version == 6 else 4]


def _delete(netlink: Socket, head: bytes, listed: bytes) -> bool:
    """Delete one connection as it was listed; one that has ended meanwhile is no error."""
    told = attributes(listed[NFGENMSG.size :])
    body = head + _nested(CTA_TUPLE_ORIG, told[CTA_TUPLE_ORIG])
    # The identity keeps a connection that has just taken the place of this one; the zone is part of the key.
    body += b"".join(attribute(kind, told[kind]) for kind in (CTA_ID, CTA_ZONE) if kind in told)
    try:
        netlink.request(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, body)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def loosen(address: str, mark: int) -> int:
    """Makes the kernel take whatever sequence numbers come on the TCP connections with all bits of ``mark`` that the
    outside sees with this address: they go on elsewhere, and may come back far ahead. How many there are.
    """
    version = ipaddress.ip_address(address).version
    family = NFGENMSG.pack(FAMILIES[version], 0, 0)
    try:
        with Socket(NETLINK_NETFILTER) as netlink:
            listed = netlink.dump(IPCTNL_MSG_CT_GET, family + _marked(mark, mark))
            found = [family + changed for changed in _loosened(listed, ipaddress.ip_address(address))]
            for first in range(0, len(found), MAX_MESSAGES_PER_SEND):
                netlink.send(IPCTNL_MSG_CT_NEW, found[first : first + MAX_MESSAGES_PER_SEND])
    except OSError as error:
        raise refused("loosening connections", error.errno or errno.EIO) from error
    return len(found)


def _marked(mark: int, mask: int) -> bytes:
    return attribute(CTA_MARK, struct.pack("!I", mark)) + attribute(CTA_MARK_MASK, struct.pack("!I", mask))


def _loosened(
    listed: list[tuple[int, bytes]], address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> Iterator[bytes]:
    """What to say of each of those TCP connections."""
    flags = struct.pack("BB", IP_CT_TCP_FLAG_BE_LIBERAL, IP_CT_TCP_FLAG_BE_LIBERAL)
    both = b"".join(attribute(kind, flags) for kind in CTA_PROTOINFO_TCP_FLAGS)
    change = _nested(CTA_PROTOINFO, _nested(CTA_PROTOINFO_TCP, both))
    for _, body in listed:
        told = attributes(body[NFGENMSG.size :])
        ends = attributes(attributes(told.get(CTA_TUPLE_REPLY, b"")).get(CTA_TUPLE_IP, b""))
        is_tcp = CTA_PROTOINFO_TCP in attributes(told.get(CTA_PROTOINFO, b""))
        if is_tcp and ends.get(CTA_IP_DST[address.version], b"")[: len(address.packed)] == address.packed:
            yield _nested(CTA_TUPLE_ORIG, told[CTA_TUPLE_ORIG]) + change


def _nested(kind: int, value: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, value)
