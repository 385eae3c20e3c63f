"""Connections as the kernel lists them, as bytes."""

from __future__ import annotations

import ipaddress
import socket
import struct

from cni.kernel.netlink.constants import (
    CTA_ID,
    CTA_IP_DST,
    CTA_IP_SRC,
    CTA_MARK,
    CTA_PROTO_NUM,
    CTA_PROTOINFO,
    CTA_PROTOINFO_TCP,
    CTA_PROTOINFO_TCP_STATE,
    CTA_TUPLE_IP,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_PROTO,
    CTA_TUPLE_REPLY,
    CTA_ZONE,
    FAMILIES,
    IPCTNL_MSG_CT_NEW,
    NLMSG_DONE,
)
from cni.kernel.netlink.messages import NFGENMSG, NetfilterHeader, Request, attribute, encode, nested

TCP_CONNTRACK_ESTABLISHED = 3


def direction(name: int, source: str, destination: str, protocol: int) -> bytes:
    parsed = ipaddress.ip_address(source)
    ends = nested(
        CTA_TUPLE_IP,
        attribute(CTA_IP_SRC[parsed.version], parsed.packed),
        attribute(CTA_IP_DST[parsed.version], ipaddress.ip_address(destination).packed),
    )
    return nested(name, ends, nested(CTA_TUPLE_PROTO, attribute(CTA_PROTO_NUM, bytes([protocol]))))


def listed(
    source: str,
    remote: str,
    shown: str = "",
    mark: int = 0,
    protocol: int = socket.IPPROTO_UDP,
    zone: int = 0,
) -> bytes:
    """Return the body of one connection; ``shown``: its source behind an SNAT."""
    body = NFGENMSG.pack(
        NetfilterHeader(FAMILIES[ipaddress.ip_address(source).version]),
        direction(CTA_TUPLE_ORIG, source, remote, protocol),
        direction(CTA_TUPLE_REPLY, remote, shown or source, protocol),
        attribute(CTA_ID, b"\1\2\3\4"),
        attribute(CTA_MARK, struct.pack("!I", mark)),
    )
    return body + (attribute(CTA_ZONE, struct.pack("!H", zone)) if zone else b"")


def listing(bodies: list[bytes], number: int = 1, flags: int = 0) -> bytes:
    messages = [encode(Request(IPCTNL_MSG_CT_NEW, flags, body), 0, number) for body in bodies]
    return b"".join(messages) + encode(Request(NLMSG_DONE, 0, bytes(4)), 0, number)


def tcp(source: str, remote: str, state: int) -> bytes:
    """Return the body of a TCP connection in this state."""
    info = nested(CTA_PROTOINFO_TCP, attribute(CTA_PROTOINFO_TCP_STATE, bytes([state])))
    return listed(source, remote, protocol=socket.IPPROTO_TCP) + nested(CTA_PROTOINFO, info)
