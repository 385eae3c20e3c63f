"""Events of the kernel's connection table: a connection has begun, or has left the table."""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from . import netfilter
from .constants import NFNLGRP_CONNTRACK_NEW
from .ct_flows import flow
from .netlink_socket import Socket

BUFFER_BYTES = 8 << 20
"""Room for some thousand connections that begin between two looks."""
AT_ONCE_S = 0.0


class NewFlows:
    """The connections that some sources begin, by what the kernel reports. ``shown``: as what each of them leaves.

    Its keys and its values are addresses with ports: those of the source, and those behind source NAT.
    """

    def __init__(self, netlink: Socket, sources: Collection[str]) -> None:
        self.shown: dict[tuple[str, int], tuple[str, int]] = {}
        self._socket = netlink
        self._sources = sources

    def read(self) -> None:
        """Take in what has been reported. Does not block. Raises OSError."""
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
