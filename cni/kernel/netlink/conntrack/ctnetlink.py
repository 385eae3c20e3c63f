"""Delete and change connections in the kernel's connection table.

Only connections of zone 0 are found by an address: another zone belongs to the program that has set the zone, and may
have the same addresses for other machines.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Callable

from ...errors import refused
from .. import netfilter
from ..constants import (
    CTA_PROTOINFO,
    CTA_PROTOINFO_TCP,
    CTA_PROTOINFO_TCP_FLAGS,
    CTA_TUPLE_ORIG,
    CTA_TUPLE_REPLY,
    FAMILIES,
    IP_CT_TCP_FLAG_BE_LIBERAL,
    IPCTNL_MSG_CT_DELETE,
    IPCTNL_MSG_CT_GET,
    IPCTNL_MSG_CT_NEW,
    NLM_F_ACK,
    TCP_CONNTRACK_CLOSE,
    TCP_CONNTRACK_TIME_WAIT,
)
from ..messages import NFGENMSG, NetfilterHeader, Request, attribute, nested
from ..netlink_socket import Socket
from .connections import Address, Connection, from_source, to_destination, with_mark

MAX_REQUESTS_PER_SEND = 200
ENDED = frozenset({TCP_CONNTRACK_TIME_WAIT, TCP_CONNTRACK_CLOSE})
"""States of TCP connections that both ends have closed."""
MAX_SINGLE_SOURCES = 4
"""Sources that are listed one by one; the kernel searches its whole table for each."""


def delete_marked(mark: int, mask: int) -> None:
    """Delete the connections with this mark under ``mask``; of a large table in some milliseconds.

    Raises :class:`~cni.kernel.errors.KernelError`.
    """
    body = NFGENMSG.pack(NetfilterHeader(), with_mark(mark, mask))
    with _opened("forgetting connections") as netlink:
        netlink.request(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, body)


def delete_of(address: str) -> int:
    """Delete every connection that ``address`` has opened or answers, of whatever protocol. Return their number.

    Raises :class:`~cni.kernel.errors.KernelError`.
    """
    with _opened(f"forgetting the connections of {address}") as netlink:
        return _delete_of(netlink, ipaddress.ip_address(address))


def _delete_of(netlink: Socket, address: Address) -> int:
    deleted = 0
    for direction in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY):
        for connection in _listed(netlink, address.version, from_source(direction, address)):
            if connection.source(direction) == address.packed:
                deleted += _delete(netlink, address.version, connection)
    return deleted


def delete_opened(stale: Mapping[str, Callable[[str], bool]]) -> int:
    """Delete the connections that each source opened to a remote address for which its function returns True.

    The remote address is that of the end that answers: the destination behind a DNAT. TCP is excepted: rules answer its
    packets on another path with a reset, which ends the connection. Returns the number of the connections. Raises
    :class:`~cni.kernel.errors.KernelError`.
    """
    with _opened("forgetting the connections of pods") as netlink:
        return _delete_opened(netlink, {ipaddress.ip_address(source): stale[source] for source in stale})


def _delete_opened(netlink: Socket, stale: Mapping[Address, Callable[[str], bool]]) -> int:
    deleted = 0
    # A pod may have thousands of connections, but few partners.
    known: dict[tuple[Address, bytes], bool] = {}
    for source, connection in _opened_by(netlink, stale):
        ends = source, connection.source(CTA_TUPLE_REPLY)
        if not ends[1] or connection.protocol == socket.IPPROTO_TCP:
            continue
        if ends not in known:
            known[ends] = stale[source](str(ipaddress.ip_address(ends[1])))
        if known[ends]:
            deleted += _delete(netlink, source.version, connection)
    return deleted


def _opened_by(netlink: Socket, sources: Collection[Address]) -> Iterator[tuple[Address, Connection]]:
    """Yield the connections that each of these sources has opened."""
    for version in sorted({source.version for source in sources}):
        wanted = {source.packed: source for source in sources if source.version == version}
        single = version == 4 and len(wanted) <= MAX_SINGLE_SOURCES
        for chosen in [{packed: wanted[packed]} for packed in wanted] if single else [wanted]:
            asked = from_source(CTA_TUPLE_ORIG, *chosen.values()) if single else b""
            for connection in _listed(netlink, version, asked):
                if source := chosen.get(connection.source(CTA_TUPLE_ORIG)):
                    yield source, connection


def open_connections(sources: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Return source and remote address of each connection that one of ``sources`` has opened and that is still open.

    The remote address is that of the end that answers. Raises :class:`~cni.kernel.errors.KernelError`.
    """
    with _opened("listing connections") as netlink:
        return tuple(_open_connections(netlink, [ipaddress.ip_address(source) for source in sources]))


def _open_connections(netlink: Socket, sources: Collection[Address]) -> Iterator[tuple[str, str]]:
    for source, connection in _opened_by(netlink, sources):
        remote = connection.source(CTA_TUPLE_REPLY)
        if remote and connection.tcp_state not in ENDED:
            yield str(source), str(ipaddress.ip_address(remote))


def delete_shown(address: str, mark: int) -> int:
    """Delete the connections with all bits of ``mark`` that are SNATed to this address. Return their number.

    Raises :class:`~cni.kernel.errors.KernelError`.
    """
    with _opened(f"forgetting the connections by {address}") as netlink:
        parsed = ipaddress.ip_address(address)
        shown = _shown(netlink, parsed, mark)
        return sum(_delete(netlink, parsed.version, connection) for connection in shown)


def set_tcp_liberal(address: str, mark: int) -> int:
    """Set IP_CT_TCP_FLAG_BE_LIBERAL on the TCP connections with all bits of ``mark`` that are SNATed to ``address``.

    The kernel then accepts all sequence numbers: the connections continue by another master, and may come back with
    numbers far ahead. Returns the number of connections. Raises :class:`~cni.kernel.errors.KernelError`.
    """
    parsed = ipaddress.ip_address(address)
    header = NFGENMSG.pack(NetfilterHeader(FAMILIES[parsed.version]))
    with _opened("loosening connections") as netlink:
        changes = [
            Request(IPCTNL_MSG_CT_NEW, 0, header + change)
            for change in _liberal_tcp(_shown(netlink, parsed, mark))
        ]
        for begin in range(0, len(changes), MAX_REQUESTS_PER_SEND):
            netlink.send(changes[begin : begin + MAX_REQUESTS_PER_SEND])
    return len(changes)


def _liberal_tcp(listed: Iterable[Connection]) -> Iterator[bytes]:
    """Yield the attributes that make each TCP connection liberal."""
    flags = struct.pack("BB", IP_CT_TCP_FLAG_BE_LIBERAL, IP_CT_TCP_FLAG_BE_LIBERAL)
    both = (attribute(kind, flags) for kind in CTA_PROTOINFO_TCP_FLAGS)
    change = nested(CTA_PROTOINFO, nested(CTA_PROTOINFO_TCP, *both))
    for connection in listed:
        if connection.protocol == socket.IPPROTO_TCP and connection.key:
            yield connection.key + change


def _shown(netlink: Socket, address: Address, mark: int) -> Iterator[Connection]:
    """Yield the connections with all bits of ``mark`` whose answers come to this address."""
    wanted = with_mark(mark, mask=mark) + to_destination(CTA_TUPLE_REPLY, address)
    for connection in _listed(netlink, address.version, wanted):
        if connection.mark & mark == mark and connection.destination(CTA_TUPLE_REPLY) == address.packed:
            yield connection


def _listed(netlink: Socket, version: int, wanted: bytes) -> Iterator[Connection]:
    """Yield the connections of zone 0 and of one IP version that the kernel lists for these attributes."""
    header = NFGENMSG.pack(NetfilterHeader(FAMILIES[version]))
    for message in netlink.dump(IPCTNL_MSG_CT_GET, header + wanted):
        connection = Connection(message.body)
        if not connection.zone:
            yield connection


def _delete(netlink: Socket, version: int, connection: Connection) -> bool:
    """Delete one connection as it was listed. Return False if it has ended since."""
    if not connection.key:
        return False
    header = NFGENMSG.pack(NetfilterHeader(FAMILIES[version]))
    try:
        # With the identity, a later connection with the same tuple is not deleted.
        netlink.request(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, header + connection.key + connection.identity)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


@contextmanager
def _opened(what: str) -> Iterator[Socket]:
    """Yield a socket for ``what``. Raises :class:`~cni.kernel.errors.KernelError` if the kernel refuses it."""
    try:
        with netfilter.opened() as netlink:
            yield netlink
    except OSError as error:
        raise refused(what, error.errno or errno.EIO) from error
