"""nftables transactions by hand, for what must be quick: some messages, one system call, under 0.1 ms.

``nft`` takes some milliseconds to start. What is written here are elements of sets that exist; tables are made by
:mod:`cni.kernel.nftables.nft`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Sequence

from ..netlink.rtnetlink import (
    HEADER,
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    Socket,
    attribute,
    attributes,
)

# linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
NFNL_SUBSYS_NFTABLES = 10
NFNL_MSG_BATCH_BEGIN = 16
NFNL_MSG_BATCH_END = 17
NFT_MSG_NEWSETELEM = NFNL_SUBSYS_NFTABLES << 8 | 12
NFT_MSG_GETSETELEM = NFNL_SUBSYS_NFTABLES << 8 | 13
NFT_MSG_DELSETELEM = NFNL_SUBSYS_NFTABLES << 8 | 14
NLM_F_CREATE = 0x400
NLM_F_EXCL = 0x200
NLA_F_NESTED = 0x8000
NFTA_SET_ELEM_LIST_TABLE = 1
NFTA_SET_ELEM_LIST_SET = 2
NFTA_SET_ELEM_LIST_ELEMENTS = 3
NFTA_LIST_ELEM = 1
NFTA_SET_ELEM_KEY = 1
NFTA_SET_ELEM_TIMEOUT = 4
NFTA_SET_ELEM_EXPIRATION = 5
NFTA_DATA_VALUE = 1
NFPROTO_NETDEV = 5
NFGENMSG = struct.Struct("!BBH")
"""Family, version, resource (of a batch: the subsystem)."""
MILLISECONDS = struct.Struct("!Q")

Message = tuple[int, int, bytes]
"""Type, flags, body."""


class Nftables(Socket):
    """A netlink socket, opened once in the network namespace of the calling thread; serves one thread at a time."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER)

    def commit(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """One transaction. For each message its error number; with any but 0, nothing was changed.

        It does not block, but waits in the kernel while another program's transaction is on its way. Raises OSError
        where the transaction failed as a whole.
        """
        first = self._sequence + 1
        self._sequence += len(messages) + 2
        subsystem = NFGENMSG.pack(socket.AF_UNSPEC, 0, NFNL_SUBSYS_NFTABLES)
        data = _packed(NFNL_MSG_BATCH_BEGIN, 0, first, subsystem)
        for number, (kind, flags, body) in enumerate(messages, first + 1):
            data += _packed(kind, flags | NLM_F_ACK, number, body)
        self._socket.send(data + _packed(NFNL_MSG_BATCH_END, 0, self._sequence, subsystem))
        answers = self._answers()
        if answers.get(first, 0):
            raise OSError(answers[first], os.strerror(answers[first]))
        codes = tuple(answers.get(number, -1) for number in range(first + 1, self._sequence))
        if -1 in codes:
            raise OSError(errno.EIO, "the kernel has not answered")
        return codes

    def _answers(self) -> dict[int, int]:
        """Error numbers by sequence. The kernel has answered everything before it returns from ``send``."""
        found: dict[int, int] = {}
        while True:
            try:
                data = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return found
            while len(data) >= HEADER.size:
                length, kind, _, sequence, _ = HEADER.unpack_from(data)
                if length < HEADER.size:
                    break
                if kind == NLMSG_ERROR:
                    found[sequence] = -struct.unpack_from("=i", data, HEADER.size)[0]
                data = data[length + 3 & ~3 :]


def elements(table: str, name: str, keys: Iterable[bytes], lifetime_ms: int = 0) -> bytes:
    """The body of a message about elements of the set ``name`` in a ``netdev`` table.

    ``lifetime_ms``: when they expire, in milliseconds from the transaction on; 0 says nothing about it.
    """
    body = NFGENMSG.pack(NFPROTO_NETDEV, 0, 0)
    body += attribute(NFTA_SET_ELEM_LIST_TABLE, table.encode() + b"\0")
    body += attribute(NFTA_SET_ELEM_LIST_SET, name.encode() + b"\0")
    items = b"".join(attribute(NFTA_LIST_ELEM | NLA_F_NESTED, _element(key, lifetime_ms)) for key in keys)
    return body + (attribute(NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED, items) if items else b"")


def timeout_ms(answer: bytes) -> int:
    """The time-out of the first element in the answer to :data:`NFT_MSG_GETSETELEM`; 0 if it has none."""
    items = attributes(answer[NFGENMSG.size :]).get(NFTA_SET_ELEM_LIST_ELEMENTS, b"")
    element = attributes(attributes(items).get(NFTA_LIST_ELEM, b""))
    return int.from_bytes(element.get(NFTA_SET_ELEM_TIMEOUT, b""), "big")


def _element(key: bytes, lifetime_ms: int) -> bytes:
    data = attribute(NFTA_SET_ELEM_KEY | NLA_F_NESTED, attribute(NFTA_DATA_VALUE, key))
    if lifetime_ms:
        lifetime = MILLISECONDS.pack(lifetime_ms)
        data += attribute(NFTA_SET_ELEM_TIMEOUT, lifetime) + attribute(NFTA_SET_ELEM_EXPIRATION, lifetime)
    return data


def _packed(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    data = HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | flags, sequence, 0) + body
    return data + bytes(-len(data) % 4)
