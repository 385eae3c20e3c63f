"""Add and remove the virtual addresses of this machine, each by one netlink message.

An IPv4 address is added so that it only receives: the kernel does not select it as a source if another address is
there, adds no route but the ``local`` one, announces nothing (:mod:`gateway_agent.lease_daemon.sockets.arp_socket`
does), and runs no duplicate address detection. The address comes last on its interface, because many programs take the
first address for that of the node: a kubelet without ``--node-ip``, ``hostname -I``, Go's and Java's lists of
addresses. The kernel puts an address of a narrower scope before the others, and one of the same scope behind all
primary addresses.

Of IPv6 addresses the kernel lists the newest first. So a virtual IPv6 address is on no interface: packets to it are
received by a local route, and :mod:`gateway_agent.lease_daemon.sockets.arp_socket` answers its solicitations.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from cni.kernel import ids
from cni.kernel.errors import KernelError, refused
from cni.kernel.netlink.addresses import Address, observe, packed
from cni.kernel.netlink.constants import (
    IFA_ADDRESS,
    IFA_LOCAL,
    IFA_PROTO,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    RT_SCOPE_HOST,
    RT_SCOPE_UNIVERSE,
    RT_TABLE_LOCAL,
    RTA_DST,
    RTA_OIF,
    RTM_DELADDR,
    RTM_DELROUTE,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWROUTE,
    RTN_LOCAL,
)
from cni.kernel.netlink.messages import IFADDRMSG, RTMSG, AddressHeader, RouteHeader, attribute, integer
from cni.kernel.netlink.netlink_socket import Socket

OUR_LOCAL_ROUTES = RouteHeader(socket.AF_INET6, table=RT_TABLE_LOCAL, protocol=ids.PROTOCOL, kind=RTN_LOCAL)
"""Filter for the routes that a strict socket lists: by table, protocol and type (Linux 4.20)."""


class _Listing:
    """All addresses of the machine at one moment."""

    def __init__(self, listed: Iterable[Address]) -> None:
        self._at: dict[bytes, list[Address]] = {}
        self._on: dict[int, list[Address]] = {}
        for found in listed:
            self._at.setdefault(packed(found.address), []).append(found)
            if ":" not in found.address:
                self._on.setdefault(found.index, []).append(found)
        self._wide = {index for index, there in self._on.items() if any(map(_is_wide, there))}

    def at(self, address: str) -> list[Address]:
        """Return where an address is configured."""
        return self._at.get(packed(address), [])

    def on(self, index: int) -> list[Address]:
        """Return the IPv4 addresses of an interface, in the kernel's order, which is the order that programs list."""
        return self._on.get(index, [])

    def scope(self, index: int) -> int:
        """Return the scope in which an IPv4 address is last, and not selected as a source.

        In the widest scope the kernel selects the first address. If there is no other address, the kernel would select
        this one: scope ``host`` prevents that.
        """
        return RT_SCOPE_UNIVERSE if index in self._wide else RT_SCOPE_HOST


class Addresses:
    """The virtual addresses, by one netlink socket. Methods raise :class:`KernelError` if the kernel refuses."""

    def __init__(self) -> None:
        self._socket = Socket()
        # The lease daemon lists the routes each second: without the filter a large routing table would delay its
        # leases.
        self._routes = Socket(strict=True)
        self._listed: _Listing | None = None
        """The addresses of the machine, during :meth:`listed_once`."""

    @contextmanager
    def listed_once(self) -> Iterator[None]:
        """List the addresses once for all changes meanwhile: each list has all addresses of the machine."""
        self._listed = self._list()
        try:
            yield
        finally:
            self._listed = None

    def close(self) -> None:
        """Close the sockets; addresses stay."""
        self._socket.close()
        self._routes.close()

    def add(self, address: str, interface: str) -> None:
        """Add a virtual address to this machine, unless the agent has already added it.

        An IPv4 address that is not the last one is moved. Raises :class:`KernelError` if another program has configured
        the address, on any interface.
        """
        doing = f"adding {address} to {interface}"
        index = _index(interface, doing)
        there = self._listed or self._list()
        for found in there.at(address):
            if not found.ours:
                hint = "a virtual address is added by the agent alone: remove it there"
                raise KernelError(f"{address} is configured on {found.interface} by another program", hint)
            self._move_away(doing, found, index, there)
        if ":" in address:
            self._request(doing, RTM_NEWROUTE, NLM_F_CREATE, _route(address, index), errno.EEXIST)
            return
        body = _body(address, index, scope=there.scope(index))
        self._request(doing, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body, errno.EEXIST)

    def _list(self) -> _Listing:
        return _Listing(observe(self._socket))

    def _move_away(self, doing: str, found: Address, index: int, listing: _Listing) -> None:
        """Remove one of our addresses from its interface if its interface, scope or position is wrong.

        An earlier version added IPv6 addresses to interfaces.
        """
        there = listing.on(index)
        misplaced = found in there and any(map(_is_wide, there[there.index(found) :]))
        if ":" in found.address or misplaced:
            self._request(
                doing, RTM_DELADDR, 0, _body(found.address, found.index, found.length), errno.EADDRNOTAVAIL
            )

    def remove(self, address: str, interface: str) -> None:
        """Remove a virtual address if it is ours; another program's address is not changed."""
        doing = f"removing {address}"
        try:
            index = socket.if_nametoindex(interface)
        except OSError:
            return
        if ":" in address:
            self._request(doing, RTM_DELROUTE, 0, _route(address, index), errno.ESRCH)
        for found in (self._listed or self._list()).at(address):
            if found.ours and found.index == index:
                body = _body(address, index, found.length)
                self._request(doing, RTM_DELADDR, 0, body, errno.EADDRNOTAVAIL, errno.ENODEV)

    def ours(self) -> tuple[tuple[str, str], ...]:
        """Return all virtual addresses of this machine, with their interfaces."""
        found = {(item.address, item.interface) for item in observe(self._socket) if item.ours}
        return tuple(
            sorted((address, interface) for address, interface in found | _routed(self._routes) if interface)
        )

    def misplaced(self, interface: str) -> tuple[str, ...]:
        """Return our IPv4 addresses on an interface that are listed before a later one of another program."""
        try:
            index = socket.if_nametoindex(interface)
        except OSError:
            return ()
        there = self._list().on(index)
        last = max((place for place, found in enumerate(there) if _is_wide(found)), default=0)
        return tuple(found.address for found in there[:last] if found.ours)

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
    """Return True for a primary address of another program that the kernel may select as a source."""
    return not found.ours and not found.secondary and found.scope == RT_SCOPE_UNIVERSE


def _routed(kernel: Socket) -> set[tuple[str, str]]:
    """Return the IPv6 addresses of our local routes, with their interfaces."""
    try:
        listed = kernel.dump(RTM_GETROUTE, RTMSG.pack(OUR_LOCAL_ROUTES))
        ours = [m.body for m in listed if m.kind == RTM_NEWROUTE and _is_our_local_route(RTMSG.read(m.body))]
    except OSError as error:
        raise refused("reading the local routes", error.errno or errno.EIO) from error
    routes = map(RTMSG.attributes, ours)
    return {
        (socket.inet_ntop(socket.AF_INET6, each[RTA_DST]), _name(integer(each.get(RTA_OIF, b""))))
        for each in routes
        if len(each.get(RTA_DST, b"")) == 16
    }


def _is_our_local_route(header: RouteHeader) -> bool:
    found = header.table, header.kind, header.protocol
    return found == (OUR_LOCAL_ROUTES.table, OUR_LOCAL_ROUTES.kind, OUR_LOCAL_ROUTES.protocol)


def _body(address: str, index: int, length: int = 0, scope: int = RT_SCOPE_HOST) -> bytes:
    """Return the body of a message about an address. ``length``: of the prefix, bits; 0: the whole address."""
    raw = packed(address)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return IFADDRMSG.pack(
        AddressHeader(family, length or 8 * len(raw), scope=scope, interface=index),
        attribute(IFA_LOCAL, raw),
        attribute(IFA_ADDRESS, raw),
        attribute(IFA_PROTO, bytes([ids.ADDRESS_PROTOCOL])),
    )


def _route(address: str, index: int) -> bytes:
    """Return the body of a message about our local route to an IPv6 address."""
    raw = packed(address)
    header = OUR_LOCAL_ROUTES._replace(length=8 * len(raw))
    return RTMSG.pack(header, attribute(RTA_DST, raw), attribute(RTA_OIF, struct.pack("=i", index)))


def _name(index: int) -> str:
    """Return an interface's name; empty if the interface has gone meanwhile."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""
