"""Transactions on the network namespace's nftables, by whomever: each has a number, one more than the last."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Mapping

from ..errors import refused
from ..netlink.rtnetlink import HEADER, NETLINK_NETFILTER, Socket, attributes

# linux/netlink.h, linux/netfilter.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NFTABLES_GROUP = 7
SO_RCVBUFFORCE = 33
FAMILIES = {"ip": 2, "inet": 1, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWSETELEM = NFNL_SUBSYS_NFTABLES << 8 | 12
NFT_MSG_DELSETELEM = NFNL_SUBSYS_NFTABLES << 8 | 14
NFT_MSG_NEWGEN = NFNL_SUBSYS_NFTABLES << 8 | 15
NFT_MSG_GETGEN = NFNL_SUBSYS_NFTABLES << 8 | 16
NFTA_GEN_ID = 1
NFGENMSG = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
BUFFER = 64 << 20
"""Bytes of news that may wait: some 100,000 elements."""
NEWS_TIMEOUT_S = 1.0
"""Seconds after which news of a transaction that has been made is taken for lost."""


class TransactionCounter:
    """Counts the transactions that touch some tables, from its making on.

    The number of the last transaction alone does not tell: the lease keeper refreshes its leases all the time.
    """

    def __init__(self, tables: Mapping[str, frozenset[str]]) -> None:
        """``tables``: by ``FAMILY NAME`` the sets whose elements do not count. Raises KernelError."""
        self._tables = {
            (FAMILIES[family], name.encode()): frozenset(item.encode() for item in sets)
            for (family, name), sets in ((table.split(), sets) for table, sets in tables.items())
        }
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
            )
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
            self._socket.bind((0, 0))
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFTABLES_GROUP)
            self._socket.settimeout(NEWS_TIMEOUT_S)
        except OSError as error:
            raise refused("watching nftables", error.errno or errno.EIO) from error
        self._begin = current()

    def __enter__(self) -> TransactionCounter:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def transactions(self) -> int | None:
        """How many there were; None where that cannot be told, because news was lost. Call it once."""
        until = current()
        if until == self._begin:
            return 0
        count, touched = 0, False
        try:
            for kind, body in self._news():
                if kind == NFT_MSG_NEWGEN:
                    # News comes from before the first look, too.
                    number = _number(body)
                    count += touched and _after(number, self._begin)
                    touched = False
                    if not _after(until, number):
                        return count
                else:
                    touched = touched or self._touches(kind, body)
        except OSError:
            return None
        return None

    def _news(self) -> Iterator[tuple[int, bytes]]:
        while True:
            data = self._socket.recv(1 << 18)
            offset = 0
            while offset + HEADER.size <= len(data):
                length, kind, _, _, _ = HEADER.unpack_from(data, offset)
                if length < HEADER.size:
                    break
                yield kind, data[offset + HEADER.size : offset + length]
                offset += length + 3 & ~3

    def _touches(self, kind: int, body: bytes) -> bool:
        """Attribute 1 of every message is the name of the table; of elements, 2 that of the set."""
        found = attributes(body[len(NFGENMSG) :])
        left_out = self._tables.get((body[0], found.get(1, b"").rstrip(b"\0")))
        if left_out is None:
            return False
        elements = kind in (NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM)
        return not (elements and found.get(2, b"").rstrip(b"\0") in left_out)


def current() -> int:
    """The number of the last transaction. Raises :class:`~cni.kernel.errors.KernelError`."""
    try:
        with Socket(NETLINK_NETFILTER) as kernel:
            answer = kernel.request(NFT_MSG_GETGEN, 0, NFGENMSG)
    except OSError as error:
        raise refused("reading the nftables generation", error.errno or errno.EIO) from error
    return _number(answer)


def _number(body: bytes) -> int:
    return int.from_bytes(attributes(body[len(NFGENMSG) :])[NFTA_GEN_ID], "big")


def _after(number: int, other: int) -> bool:
    """Numbers are 32 bits and begin again."""
    return 0 < (number - other) & 0xFFFFFFFF < 1 << 31
