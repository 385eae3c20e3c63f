"""Virtual addresses on interfaces: one netlink message each.

An address is added so that it does nothing but receive: the kernel does not choose it as a source by itself if
another one is there, no route but the ``local`` one comes with it, nobody is told (that is
:mod:`gateway_agent.shell.arp`), no duplicate is looked for.

An IPv4 address comes last on its interface. Many programs take the first one for the address of the node: a kubelet
without ``--node-ip``, ``hostname -I``, Go's and Java's lists of addresses. The kernel puts an address of a narrower
scope before the others, and one of the same scope behind all that are primary. Of IPv6 addresses of one scope the
newest is first, and nothing changes that: there only the lifetime says that it is not to be chosen.
"""

from __future__ import annotations

import errno
import socket
import struct

from cni.kernel import ids
from cni.kernel.addresses import (
    IFA_ADDRESS,
    IFA_LOCAL,
    IFA_PROTO,
    IFADDRMSG,
    RTM_NEWADDR,
    Address,
    observe,
    packed,
)
from cni.kernel.errors import KernelError, refused
from cni.kernel.rtnetlink import NLM_F_ACK, Socket, attribute

# linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h
RTM_DELADDR = 21
RTM_NEWROUTE, RTM_DELROUTE = 24, 25
RT_TABLE_LOCAL = 255
RTN_LOCAL = 2
RTA_DST, RTA_OIF = 1, 4
RTMSG = struct.Struct("=BBBBBBBBI")
"""Family, destination's length, source's length, TOS, table, protocol, scope, type, flags."""
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
IFA_CACHEINFO = 6
IFA_FLAGS = 8
IFA_F_NODAD = 0x02
IFA_F_NOPREFIXROUTE = 0x200
RT_SCOPE_UNIVERSE = 0
RT_SCOPE_HOST = 254
CACHEINFO = struct.Struct("=IIII")
"""Preferred and valid lifetime in seconds, and two times that the kernel fills in."""
FOREVER = 0xFFFFFFFF
DEPRECATED = CACHEINFO.pack(0, FOREVER, 0, 0)


class Addresses:
    """A netlink socket, opened once. Raises :class:`KernelError` where the kernel refuses."""

    def __init__(self) -> None:
        self._socket = Socket()

    def close(self) -> None:
        """Addresses stay."""
        self._socket.close()

    def add(self, address: str, interface: str) -> None:
        """Configures a virtual address; one that is there and ours is left alone.

        One that does not stand last is moved. Raises :class:`KernelError` if somebody else has configured it, on
        whatever interface.
        """
        doing = f"adding {address} to {interface}"
        index = _index(interface, doing)
        for found in observe(self._socket, [address]):
            if not found.ours:
                hint = "a virtual address is added by the agent alone: remove it there"
                raise KernelError(f"{address} is configured on {found.interface} by somebody else", hint)
        if ":" not in address and self._is_misplaced(address, index):
            self._request(doing, RTM_DELADDR, 0, _body(address, index), errno.EADDRNOTAVAIL)
        body = _body(address, index, scope=self._scope(index))
        self._request(doing, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body, errno.EEXIST)
        self._route(doing, RTM_NEWROUTE, NLM_F_CREATE, address, index, errno.EEXIST)

    def _route(self, doing: str, kind: int, flags: int, address: str, index: int, done_already: int) -> None:
        """Makes or takes away our own local route to an IPv6 address.

        The kernel makes its own in a work queue, later. Until then it would send by the address, but pass on what is
        meant for it: also the answer to its first question for its next hop, and the second one comes only after a
        second.
        """
        if ":" in address:
            raw = packed(address)
            head = RTMSG.pack(socket.AF_INET6, 8 * len(raw), 0, 0, RT_TABLE_LOCAL, ids.PROTOCOL, 0, RTN_LOCAL, 0)
            body = head + attribute(RTA_DST, raw) + attribute(RTA_OIF, struct.pack("=i", index))
            self._request(doing, kind, flags, body, done_already)

    def remove(self, address: str, interface: str) -> None:
        """Removes it where it is ours; somebody else's, and what is gone, is left alone."""
        try:
            index = socket.if_nametoindex(interface)
        except OSError:
            return
        for found in observe(self._socket, [address]):
            if found.ours and found.index == index:
                # Before the address: where this process ends in between, the next one finds what is left.
                self._route(f"removing {address}", RTM_DELROUTE, 0, address, index, errno.ESRCH)
                body = _body(address, index, found.length)
                self._request(f"removing {address}", RTM_DELADDR, 0, body, errno.EADDRNOTAVAIL, errno.ENODEV)

    def ours(self) -> tuple[tuple[str, str], ...]:
        """All addresses of ours, with their interfaces."""
        found = ((item.address, item.interface) for item in observe(self._socket) if item.ours)
        return tuple(sorted((address, interface) for address, interface in found if interface))

    def misplaced(self, interface: str) -> tuple[str, ...]:
        """Return our IPv4 addresses on an interface that stand before somebody else's: it came later, or again."""
        try:
            index = socket.if_nametoindex(interface)
        except OSError:
            return ()
        ours = [found.address for found in self._on(index) if found.ours]
        return tuple(address for address in ours if self._is_misplaced(address, index))

    def _is_misplaced(self, address: str, index: int) -> bool:
        there = self._on(index)
        mine = next((place for place, found in enumerate(there) if found.ours and found.address == address), None)
        return mine is not None and any(_is_wide(found) for found in there[mine + 1 :])

    def _on(self, index: int) -> list[Address]:
        """The IPv4 addresses of an interface, in the kernel's order: what lists addresses gives them in this one."""
        return [found for found in observe(self._socket, index=index) if ":" not in found.address]

    def _scope(self, index: int) -> int:
        """Return the scope in which an IPv4 address is last, and not chosen as a source.

        In the widest scope the kernel chooses the first address. If no other one is there, it would choose this one:
        then scope ``host`` keeps it from that.
        """
        return RT_SCOPE_UNIVERSE if any(map(_is_wide, self._on(index))) else RT_SCOPE_HOST

    def _request(self, doing: str, kind: int, flags: int, body: bytes, *done_already: int) -> None:
        try:
            self._socket.request(kind, NLM_F_ACK | flags, body)
        except OSError as error:
            if error.errno not in done_already:
                raise refused(doing, error.errno or errno.EIO) from error


def _index(interface: str, doing: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError as error:
        raise refused(doing, errno.ENODEV) from error


def _is_wide(found: Address) -> bool:
    """Return True for a primary address of somebody else that the kernel may choose as a source."""
    return not found.ours and not found.secondary and found.scope == RT_SCOPE_UNIVERSE


def _body(address: str, index: int, length: int = 0, scope: int = RT_SCOPE_HOST) -> bytes:
    """``length`` of the prefix, in bits; 0 for all of the address."""
    raw = packed(address)
    of_address = attribute(IFA_LOCAL, raw) + attribute(IFA_ADDRESS, raw)
    of_address += attribute(IFA_PROTO, bytes([ids.ADDRESS_PROTOCOL]))
    length = length or 8 * len(raw)
    if len(raw) == 4:
        return IFADDRMSG.pack(socket.AF_INET, length, 0, scope, index) + of_address
    # No scope hides an IPv6 address, but what is deprecated is chosen only where nothing else is.
    flags = attribute(IFA_FLAGS, struct.pack("=I", IFA_F_NODAD | IFA_F_NOPREFIXROUTE))
    header = IFADDRMSG.pack(socket.AF_INET6, length, IFA_F_NODAD, RT_SCOPE_UNIVERSE, index)
    return header + of_address + flags + attribute(IFA_CACHEINFO, DEPRECATED)
