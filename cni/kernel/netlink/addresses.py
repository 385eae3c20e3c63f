"""Addresses of this machine's interfaces, by netlink alone: which there are, and whose."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .. import ids
from ..errors import KernelError, refused
from .rtnetlink import Socket, attributes

# linux/rtnetlink.h, linux/if_addr.h
RTM_NEWADDR = 20
RTM_GETADDR = 22
IFA_ADDRESS = 1
IFA_LOCAL = 2
IFA_PROTO = 11
IFA_F_SECONDARY = 0x01
IFADDRMSG = struct.Struct("=BBBBi")
"""Family, prefix length, flags, scope, index of the interface."""


@dataclass(frozen=True)
class Address:
    """One address on one interface."""

    address: str
    length: int
    """Of the prefix, in bits."""
    index: int
    """The interface's number."""
    scope: int
    """An IPv4 address of scope 0 may be chosen as the source of anything."""
    ours: bool
    secondary: bool = False
    """An IPv4 address in the subnet of another one, which the kernel prefers."""

    @property
    def interface(self) -> str:
        """Its name; empty where it has gone meanwhile."""
        try:
            return socket.if_indextoname(self.index)
        except OSError:
            return ""


def observe(kernel: Socket, only: Iterable[str] = (), index: int = 0) -> Iterator[Address]:
    """All addresses of the machine, or those that are in ``only``, or those on interface ``index``.

    Raises :class:`KernelError`.
    """
    wanted = {packed(address) for address in only}
    try:
        messages = list(kernel.dump(RTM_GETADDR, IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)))
    except OSError as error:
        raise refused("reading the addresses", error.errno or errno.EIO) from error
    for kind, body in messages:
        if kind != RTM_NEWADDR or (index and IFADDRMSG.unpack_from(body)[4] != index):
            continue
        # Most are none of these: a look at the bytes is enough to know.
        if not wanted or any(address in body for address in wanted):
            found = _parsed(body)
            if found and (not wanted or packed(found.address) in wanted):
                yield found


def foreign(addresses: Iterable[str]) -> dict[str, str]:
    """Which of these addresses somebody else has configured on this machine, and on which interface.

    Raises :class:`KernelError`; addresses that are none are an error too.
    """
    wanted = {packed(address): address for address in addresses}
    if not wanted:
        return {}
    with Socket() as kernel:
        found = observe(kernel, wanted.values())
        return {wanted[packed(item.address)]: item.interface for item in found if not item.ours}


def packed(address: str) -> bytes:
    """The bytes of an address. Raises :class:`KernelError` where it is none."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    except (OSError, ValueError) as error:
        raise KernelError(f"{address!r} is no address") from error


def _parsed(body: bytes) -> Address | None:
    family, length, flags, scope, index = IFADDRMSG.unpack_from(body)
    found = attributes(body[IFADDRMSG.size :])
    # On a point-to-point link IFA_ADDRESS is the other end's.
    raw = found.get(IFA_LOCAL, found.get(IFA_ADDRESS, b""))
    if family not in (socket.AF_INET, socket.AF_INET6) or len(raw) not in (4, 16):
        return None
    ours = found.get(IFA_PROTO) == bytes([ids.ADDRESS_PROTOCOL])
    secondary = family == socket.AF_INET and bool(flags & IFA_F_SECONDARY)
    return Address(socket.inet_ntop(family, raw), length, index, scope, ours, secondary)
