"""Transactions of any program on the network namespace's nftables. Each has a number, one more than the previous."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from ..errors import refused
from ..netlink import netfilter
from ..netlink.constants import (
    NFNLGRP_NFTABLES,
    NFPROTO,
    NFT_MSG_DELSETELEM,
    NFT_MSG_GETGEN,
    NFT_MSG_NEWGEN,
    NFT_MSG_NEWSETELEM,
    NFTA_GEN_ID,
    NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE,
)
from ..netlink.messages import NFGENMSG, Message, NetfilterHeader, malformed
from ..netlink.netlink_socket import Socket

BUFFER_BYTES = 64 << 20
"""Room for notifications that wait: of some 100,000 elements."""
NOTIFICATION_TIMEOUT_S = 1.0
"""Seconds after which the notification of a completed transaction counts as lost."""


class TransactionCounter:
    """Counts the transactions that touch some tables, from its making on.

    The number of the last transaction alone is not enough: the lease daemon refreshes its leases all the time.
    """

    def __init__(self, tables: Mapping[str, frozenset[str]]) -> None:
        """``tables``: by ``FAMILY NAME`` the sets whose elements do not count. Raises KernelError."""
        self._tables = {
            (NFPROTO[family], name.encode()): frozenset(item.encode() for item in sets)
            for (family, name), sets in ((table.split(), sets) for table, sets in tables.items())
        }
        try:
            self._socket = netfilter.watch([NFNLGRP_NFTABLES], BUFFER_BYTES, NOTIFICATION_TIMEOUT_S)
        except OSError as error:
            raise refused("watching nftables", error.errno or errno.EIO) from error
        self._begin = current()

    def __enter__(self) -> TransactionCounter:
        return self

    def __exit__(self, *_: object) -> None:
        netfilter.unwatch(self._socket, [NFNLGRP_NFTABLES])

    def transactions(self) -> int | None:
        """Return the number of transactions; None if a notification was lost. Call it once."""
        until = current()
        if until == self._begin:
            return 0
        count, touched = 0, False
        try:
            while True:
                for message in self._socket.receive():
                    if message.kind != NFT_MSG_NEWGEN:
                        touched = touched or self._touches(message)
                        continue
                    # There are notifications of transactions before the first look, too.
                    number = _number(message.body)
                    count += touched and _after(number, self._begin)
                    touched = False
                    if not _after(until, number):
                        return count
        except OSError:
            return None

    def _touches(self, message: Message) -> bool:
        # Attribute 1 of every nftables message is the name of the table.
        found = NFGENMSG.attributes(message.body)
        table = NFGENMSG.read(message.body).family, found.get(NFTA_SET_ELEM_LIST_TABLE, b"").rstrip(b"\0")
        left_out = self._tables.get(table)
        if left_out is None:
            return False
        is_element = message.kind in (NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM)
        return not (is_element and found.get(NFTA_SET_ELEM_LIST_SET, b"").rstrip(b"\0") in left_out)


def current() -> int:
    """Return the number of the last transaction. Raises :class:`~cni.kernel.errors.KernelError`."""
    try:
        with netfilter.opened() as kernel:
            return _current(kernel)
    except OSError as error:
        raise refused("reading the nftables generation", error.errno or errno.EIO) from error


def _current(kernel: Socket) -> int:
    return _number(kernel.request(NFT_MSG_GETGEN, 0, NFGENMSG.pack(NetfilterHeader())))


def _number(body: bytes) -> int:
    number = NFGENMSG.attributes(body).get(NFTA_GEN_ID)
    if number is None:
        raise malformed()
    return int.from_bytes(number, "big")


def _after(number: int, other: int) -> bool:
    """Return True if ``number`` is the later one: numbers have 32 bits and begin again."""
    return 0 < (number - other) & 0xFFFFFFFF < 1 << 31
