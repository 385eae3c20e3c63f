"""Events of the kernel's connection table: a connection has begun, or has left the table."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from .. import netfilter
from ..constants import (
    CTA_MARK,
    IPCTNL_MSG_CT_DELETE,
    IPCTNL_MSG_CT_NEW,
    NETLINK_NETFILTER,
    NFNLGRP_CONNTRACK_DESTROY,
    NFNLGRP_CONNTRACK_NEW,
    SO_MEMINFO,
)
from ..messages import NFGENMSG, NLMSGHDR
from ..netlink_socket import RECEIVE_BYTES, Socket
from ..socket_filter import (
    ATTRIBUTE_HEADER_BYTES,
    COPY_TO_INDEX,
    FIND_ATTRIBUTE,
    JUMP_ANY_BIT,
    JUMP_EQUAL,
    LOAD_BYTE,
    LOAD_INDEX_VALUE,
    LOAD_VALUE,
    LOAD_WORD_AT_INDEX,
    RETURN,
    Instruction,
    attach,
)
from .ct_flows import flow

BUFFER_BYTES = 8 << 20
"""Room for some thousand connections that begin between two calls of ``read``."""
AT_ONCE_S = 0.0
MEMINFO = struct.Struct("=9I")
"""``SK_MEMINFO_…``; the last number counts dropped messages."""


class NewFlows:
    """The connections that some sources begin, as the kernel reports them.

    ``shown``: by address and port of the source, address and port after source NAT.
    """

    def __init__(self, netlink: Socket, sources: Collection[str]) -> None:
        self.shown: dict[tuple[str, int], tuple[str, int]] = {}
        self._socket = netlink
        self._sources = sources

    def read(self) -> None:
        """Read the reported events. Does not block. Raises OSError."""
        while True:
            try:
                received = self._socket.receive(wait=False)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue
            for message in received:
                found = flow(message.body)
                if found is not None and found.original.source in self._sources:
                    source, shown = found.original, found.reply
                    self.shown[source.source, source.source_port] = (
                        shown.destination,
                        shown.destination_port,
                    )


@contextmanager
def new_flows(sources: Collection[str]) -> Iterator[NewFlows]:
    """Yield the connections that these addresses begin from now on. Raises OSError."""
    groups = (NFNLGRP_CONNTRACK_NEW,)
    netlink = netfilter.watch(groups, BUFFER_BYTES, AT_ONCE_S)
    try:
        yield NewFlows(netlink, sources)
    finally:
        netfilter.unwatch(netlink, groups)


class Event(NamedTuple):
    """A connection has begun or has left the table."""

    ended: bool
    injected: bool
    """A program has made the change, and not a packet or a timer."""
    body: bytes
    """The attributes of the connection, which :func:`.ct_flows.flow` decodes."""


class MarkedEvents(Socket):
    """The begins and ends of connections whose mark has a bit of ``mask``. The kernel filters them.

    Not for an agent, which keeps its netfilter sockets (:mod:`.netfilter`): this one is opened once by its process.
    """

    def __init__(self, mask: int, buffer_bytes: int) -> None:
        """``buffer_bytes``: room for events that wait to be read. Events beyond are lost, and counted."""
        super().__init__(NETLINK_NETFILTER, timeout_s=0.0)
        self._buffer = bytearray(RECEIVE_BYTES)
        try:
            attach(self._socket, _having_mark(mask))
            self.subscribe((NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_DESTROY), buffer_bytes)
        except OSError:
            self.close()
            raise

    def read(self, most: int) -> list[Event]:
        """Return the waiting events, by so many system calls at most. Does not block. Raises OSError."""
        found: list[Event] = []
        receive, view = self._socket.recv_into, memoryview(self._buffer)
        for _ in range(most):
            try:
                size = receive(self._buffer)
            except BlockingIOError:
                break
            except OSError as error:
                # Some events were lost: :attr:`lost` counts these.
                if error.errno != errno.ENOBUFS:
                    raise
                continue
            offset = 0
            while offset + NLMSGHDR.size <= size:
                length, kind, _, _, port = NLMSGHDR.unpack_from(view, offset)
                if length < NLMSGHDR.size:
                    break
                if kind in (IPCTNL_MSG_CT_NEW, IPCTNL_MSG_CT_DELETE):
                    body = bytes(view[offset + NLMSGHDR.size : offset + length])
                    found.append(Event(kind == IPCTNL_MSG_CT_DELETE, port != 0, body))
                offset += length + 3 & ~3
        return found

    @property
    def lost(self) -> int:
        """Return the number of events that the kernel has dropped since the socket was opened."""
        memory = self._socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO.size)
        return int(MEMINFO.unpack(memory)[-1])


def _having_mark(mask: int) -> tuple[Instruction, ...]:
    """Return a filter for messages of the connection table: it accepts those whose mark has a bit of ``mask``."""
    first_attribute = NLMSGHDR.size + NFGENMSG.size
    return (
        (LOAD_VALUE, 0, 0, first_attribute),
        (LOAD_INDEX_VALUE, 0, 0, CTA_MARK),
        (LOAD_BYTE, 0, 0, FIND_ATTRIBUTE),
        (JUMP_EQUAL, 4, 0, 0),
        (COPY_TO_INDEX, 0, 0, 0),
        (LOAD_WORD_AT_INDEX, 0, 0, ATTRIBUTE_HEADER_BYTES),
        (JUMP_ANY_BIT, 0, 1, mask),
        (RETURN, 0, 0, 0xFFFFFFFF),
        (RETURN, 0, 0, 0),
    )
