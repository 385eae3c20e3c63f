"""Changes in the kernel as small plain events, read without blocking.

The headers are parsed by hand: an agent's event loop gets an event for every neighbour of a busy node, and needs few of
these events.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from .. import ids
from .constants import (
    FRA_PROTOCOL,
    IFLA_IFNAME,
    NETCONFA_FORWARDING,
    NETCONFA_IFINDEX,
    NETCONFA_IFINDEX_ALL,
    NETCONFA_RP_FILTER,
    NETLINK_ROUTE,
    NFNL_SUBSYS_NFTABLES,
    NFNLGRP_NFTABLES,
    NFT_MSG_DELSETELEM,
    NFT_MSG_NEWSETELEM,
    NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWNETCONF,
    RTM_NEWROUTE,
    RTM_NEWRULE,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_NETCONF,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV4_RULE,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_NETCONF,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_IPV6_RULE,
    RTNLGRP_LINK,
    RTNLGRP_NEIGH,
)
from .messages import NFGENMSG, Message, attributes, decoded
from .netlink_socket import Socket

ROUTE_GROUPS = (
    RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV6_RULE, RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF,
)  # fmt: skip
ROUTE_KINDS = {
    RTM_NEWLINK: "link",
    RTM_NEWADDR: "address",
    RTM_NEWROUTE: "route",
    RTM_NEWNEIGH: "neighbour",
    RTM_NEWRULE: "rule",
    RTM_NEWNETCONF: "setting",
}
"""Kinds of events by the number of ``RTM_NEW…``; ``RTM_DEL…`` is one more."""
BUFFER_BYTES = 1 << 20
"""Room for messages that wait to be read: some thousands."""
CHANGE_ATTRIBUTES = 2
"""Number of attributes of a message about one changed setting: the interface and the value."""
OUR_TABLES = (ids.NFT_NODE_INET, ids.NFT_NODE_BRIDGE, ids.NFT_GATEWAY, ids.NFT_FENCE, ids.NFT_GUARD)
LEASES = (ids.FENCE_TICKETS, ids.FENCE_OPEN4, ids.FENCE_OPEN6)
"""Sets of the fence that the lease daemon writes with each heartbeat: their changes are no events."""


@dataclass(frozen=True)
class Event:
    """A change of any link, address, default route or setting, or of another object of ours."""

    kind: str
    """``link``, ``address``, ``uplink`` (a default route of another program), ``route``, ``neighbour``, ``rule``,
    ``setting`` (``forwarding`` or ``rp_filter``), ``table`` (nftables), or ``overrun``: messages were lost, so anything
    may have changed."""
    device: str = ""
    """Device of a link, address, neighbour or setting; empty if the kernel has forgotten its name, and for a setting of
    all devices."""
    removed: bool = False

    @property
    def ours(self) -> bool:
        """Return True if the event may concern an object that :func:`cni.datapath.reconcile.ensure` maintains."""
        others = ("link", "address", "uplink", "setting")
        return self.kind not in others or self.device.startswith(ids.DEVICE_PREFIX)


class Monitor:
    """A subscription to one netlink family: give :meth:`fileno` to an event loop, then :meth:`read`."""

    def __init__(self, family: int = NETLINK_ROUTE, buffer: int = BUFFER_BYTES) -> None:
        """``family``: ``NETLINK_ROUTE``, or ``NETLINK_NETFILTER`` for nftables. ``buffer``: bytes."""
        self._event = _route_event if family == NETLINK_ROUTE else _table_event
        self._socket = Socket(family)
        self._socket.subscribe(ROUTE_GROUPS if family == NETLINK_ROUTE else (NFNLGRP_NFTABLES,), buffer)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """End the subscription."""
        self._socket.close()

    def read(self) -> list[Event]:
        """Return all waiting events, without blocking; equal events are merged. Raises OSError."""
        events: dict[Event, None] = {}
        while True:
            try:
                received = self._socket.receive(wait=False)
            except BlockingIOError:
                return list(events)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                events[Event("overrun")] = None
                continue
            events.update(dict.fromkeys(filter(None, map(self._event, received))))


def _route_event(message: Message) -> Event | None:
    kind, body = ROUTE_KINDS.get(message.kind & ~3), message.body
    if kind is None:
        return None
    removed = bool(message.kind & 3)
    if kind == "link":
        return Event(kind, decoded(attributes(body[16:]).get(IFLA_IFNAME, b"")), removed)
    if kind in ("address", "neighbour"):
        event = Event(kind, _name(int.from_bytes(body[4:8], sys.byteorder)), removed)
        return event if kind == "address" or event.device.startswith(ids.DEVICE_PREFIX) else None
    if kind == "route" and body[1:2] == b"\0" and body[5:6] != bytes([ids.PROTOCOL]):
        return Event("uplink", removed=removed)
    if kind == "setting":
        return _setting_event(attributes(body[4:]))
    protocol = body[5:6] if kind == "route" else attributes(body[12:]).get(FRA_PROTOCOL, b"")[:1]
    return Event(kind, removed=removed) if protocol == bytes([ids.PROTOCOL]) else None


def _setting_event(found: Mapping[int, bytes]) -> Event | None:
    # The kernel reports all settings of a new device at once: its link is an event already.
    if len(found) != CHANGE_ATTRIBUTES or not found.keys() & {NETCONFA_FORWARDING, NETCONFA_RP_FILTER}:
        return None
    index = int.from_bytes(found.get(NETCONFA_IFINDEX, b""), sys.byteorder, signed=True)
    if index == NETCONFA_IFINDEX_ALL:
        return Event("setting")
    name = _name(index) if index > 0 else ""
    return Event("setting", name) if name else None


def _table_event(message: Message) -> Event | None:
    # Attribute 1 of every nftables message is the name of the table.
    found = attributes(message.body[NFGENMSG.size :])
    table = decoded(found.get(NFTA_SET_ELEM_LIST_TABLE, b""))
    if message.kind >> 8 != NFNL_SUBSYS_NFTABLES or table not in OUR_TABLES:
        return None
    is_element = message.kind in (NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM)
    if table == ids.NFT_FENCE and is_element and decoded(found.get(NFTA_SET_ELEM_LIST_SET, b"")) in LEASES:
        return None
    return Event("table")


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except (OSError, OverflowError):
        return ""
