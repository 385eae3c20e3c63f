"""Addresses of this machine's interfaces, by netlink alone."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .. import ids
from ..errors import KernelError, refused
from . import messages
from .constants import (
    IFA_ADDRESS,
    IFA_F_SECONDARY,
    IFA_LOCAL,
    IFA_PROTO,
    RTM_GETADDR,
    RTM_NEWADDR,
)
from .messages import IFADDRMSG, AddressHeader
from .netlink_socket import Socket

FEW = 8
"""Addresses that are faster to find in the bytes of a message than by reading it."""


@dataclass(frozen=True)
class Address:
    """One address on one interface."""

    address: str
    length: int
    """Length of the prefix, in bits."""
    index: int
    """The interface's number."""
    scope: int
    """The kernel may choose an IPv4 address of scope 0 as the source of any packet."""
    ours: bool
    """True if the address has the protocol :data:`cni.kernel.ids.ADDRESS_PROTOCOL`."""
    secondary: bool = False
    """An IPv4 address in the subnet of another one, which the kernel prefers."""

    @property
    def interface(self) -> str:
        """The interface's name; empty if the interface has vanished since."""
        try:
            return socket.if_indextoname(self.index)
        except OSError:
            return ""


def observe(kernel: Socket, only: Iterable[str] = (), index: int = 0) -> Iterator[Address]:
    """Yield all addresses of the machine; only those in ``only``, or on interface ``index``, if given.

    Raises :class:`KernelError`.
    """
    try:
        yield from _listed(kernel, {packed(address) for address in only}, index)
    except OSError as error:
        raise refused("reading the addresses", error.errno or errno.EIO) from error


def _listed(kernel: Socket, wanted: set[bytes], index: int) -> Iterator[Address]:
    for message in kernel.dump(RTM_GETADDR, IFADDRMSG.pack(AddressHeader())):
        body = message.body
        if message.kind != RTM_NEWADDR or (index and IFADDRMSG.read(body).interface != index):
            continue
        # Most addresses are not in ``only``: a comparison of the bytes is enough, if there are few to compare with.
        if not wanted or len(wanted) > FEW or any(address in body for address in wanted):
            found = _parsed(body)
            if found and (not wanted or packed(found.address) in wanted):
                yield found


def foreign(addresses: Iterable[str]) -> dict[str, str]:
    """Return the interface of each of these addresses that another program has configured on this machine.

    Raises :class:`KernelError`, also for a text that is no address.
    """
    wanted = {packed(address): address for address in addresses}
    if not wanted:
        return {}
    with Socket() as kernel:
        found = observe(kernel, wanted.values())
        return {wanted[packed(item.address)]: item.interface for item in found if not item.ours}


def packed(address: str) -> bytes:
    """Return the bytes of an address. Raises :class:`KernelError` for another text."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    except (OSError, ValueError) as error:
        raise KernelError(f"{address!r} is no address") from error


def _parsed(body: bytes) -> Address | None:
    header, found = IFADDRMSG.read(body), IFADDRMSG.attributes(body)
    # On a point-to-point link IFA_ADDRESS is the other end's.
    raw = found.get(IFA_LOCAL, found.get(IFA_ADDRESS, b""))
    text = messages.address(raw)
    if not text:
        return None
    ours = found.get(IFA_PROTO) == bytes([ids.ADDRESS_PROTOCOL])
    secondary = header.family == socket.AF_INET and bool(header.flags & IFA_F_SECONDARY)
    return Address(text, header.length, header.interface, header.scope, ours, secondary)
