"""What changes in the kernel, as it happens: small plain events, read without blocking.

The headers are read by hand: an agent's event loop hears of every neighbour of a busy node, and most are
none of its business.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from .. import ids
from .rtnetlink import HEADER, NETLINK_ROUTE, attributes

# linux/netlink.h, linux/rtnetlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
RTNETLINK_GROUPS = (1, 3, 5, 7, 8, 9, 11, 19)
"""LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE"""
NFTABLES_GROUP = 7
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
RTNETLINK_KINDS = {16: "link", 20: "address", 24: "route", 28: "neighbour", 32: "rule"}
"""By the number of ``RTM_NEW…``; ``RTM_DEL…`` is one more."""
NFNL_SUBSYS_NFTABLES = 10
IFLA_IFNAME = 3
FRA_PROTOCOL = 21
BUFFER = 1 << 20
"""Bytes that may wait to be read: some thousand messages."""
OUR_TABLES = (ids.NFT_NODE_INET, ids.NFT_NODE_BRIDGE, ids.NFT_GATEWAY, ids.NFT_FENCE)
ELEMENT_KINDS = (12, 14)
"""``NFT_MSG_NEWSETELEM``, ``NFT_MSG_DELSETELEM``"""
LEASES = (ids.FENCE_TICKETS, ids.FENCE_OPEN4, ids.FENCE_OPEN6)
"""Sets of the fence that the lease keeper writes with each heartbeat: no news."""


@dataclass(frozen=True)
class Event:
    """Something has changed. Of links, addresses and default routes all are told, of the rest only what is ours."""

    kind: str
    """``link``, ``address``, ``uplink`` (a default route of somebody else), ``route``, ``neighbour``, ``rule``,
    ``table`` (nftables), or ``overrun``: messages were lost, so anything may have changed."""
    device: str = ""
    """Of a link, address or neighbour; empty where the kernel has forgotten its name."""
    removed: bool = False

    @property
    def ours(self) -> bool:
        """Return True if the event may have changed what :func:`cni.datapath.reconcile.ensure` looks after."""
        return self.kind not in ("link", "address", "uplink") or self.device.startswith(ids.DEVICE_PREFIX)


class Monitor:
    """A subscription to one netlink family: give :meth:`fileno` to an event loop, then :meth:`read`."""

    def __init__(self, family: int = NETLINK_ROUTE, buffer: int = BUFFER) -> None:
        """``family``: :data:`NETLINK_ROUTE`, or :data:`NETLINK_NETFILTER` for nftables. ``buffer``: bytes."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._family = family
        self._socket = socket.socket(socket.AF_NETLINK, kind, family)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._socket.bind((0, 0))
        for group in RTNETLINK_GROUPS if family == NETLINK_ROUTE else (NFTABLES_GROUP,):
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> list[Event]:
        """All that waits, without blocking; equal events in a row are one."""
        events: dict[Event, None] = {}
        while True:
            try:
                data = self._socket.recv(1 << 17)
            except BlockingIOError:
                return list(events)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                events[Event("overrun")] = None
                continue
            events.update(dict.fromkeys(_events(data, self._family)))


def _events(data: bytes, family: int) -> Iterator[Event]:
    parse = _rtnetlink if family == NETLINK_ROUTE else _nftables
    while len(data) >= HEADER.size:
        length, kind, _, _, _ = HEADER.unpack_from(data)
        if length < HEADER.size:
            return
        event = parse(kind, data[HEADER.size : length])
        if event is not None:
            yield event
        data = data[length + 3 & ~3 :]


def _rtnetlink(number: int, body: bytes) -> Event | None:
    kind = RTNETLINK_KINDS.get(number & ~3)
    if kind is None:
        return None
    removed = bool(number & 3)
    if kind == "link":
        name = attributes(body[16:]).get(IFLA_IFNAME, b"")
        return Event(kind, name.rstrip(b"\0").decode(errors="replace"), removed)
    if kind in ("address", "neighbour"):
        event = Event(kind, _name(int.from_bytes(body[4:8], sys.byteorder)), removed)
        return event if kind == "address" or event.device.startswith(ids.DEVICE_PREFIX) else None
    if kind == "route" and body[1:2] == b"\0" and body[5:6] != bytes([ids.PROTOCOL]):
        return Event("uplink", removed=removed)
    protocol = body[5:6] if kind == "route" else attributes(body[12:]).get(FRA_PROTOCOL, b"")[:1]
    return Event(kind, removed=removed) if protocol == bytes([ids.PROTOCOL]) else None


def _nftables(number: int, body: bytes) -> Event | None:
    """Attribute 1 of every nftables message is the name of the table; of elements, 2 that of the set."""
    found = attributes(body[4:])
    name = _text(found.get(1, b""))
    if number >> 8 != NFNL_SUBSYS_NFTABLES or name not in OUR_TABLES:
        return None
    if name == ids.NFT_FENCE and number & 0xFF in ELEMENT_KINDS and _text(found.get(2, b"")) in LEASES:
        return None
    return Event("table")


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except (OSError, OverflowError):
        return ""
