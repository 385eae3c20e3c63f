"""Hand-written nftables transactions, for changes that must be quick: some messages, one system call, under 0.1 ms.

``nft`` takes some milliseconds to start. This module writes elements of existing sets; tables are made by
:mod:`cni.kernel.nftables.nft`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence

from ..netlink.constants import (
    NETLINK_NETFILTER,
    NFNL_MSG_BATCH_BEGIN,
    NFNL_MSG_BATCH_END,
    NFNL_SUBSYS_NFTABLES,
    NFPROTO,
    NFTA_DATA_VALUE,
    NFTA_LIST_ELEM,
    NFTA_SET_ELEM_EXPIRATION,
    NFTA_SET_ELEM_KEY,
    NFTA_SET_ELEM_LIST_ELEMENTS,
    NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE,
    NFTA_SET_ELEM_TIMEOUT,
    NLM_F_ACK,
    NLMSG_ERROR,
)
from ..netlink.messages import NFGENMSG, NetfilterHeader, Request, attribute, attributes, nested, text
from ..netlink.netlink_socket import Socket, error_code

MILLISECONDS_BYTES = 8
"""Length of a time-out: a number of milliseconds in network byte order."""


class TransactionSocket(Socket):
    """A netlink socket, opened once, that commits transactions."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER)

    def commit(self, requests: Sequence[Request]) -> tuple[int, ...]:
        """Make one transaction. Return the error number of each request; with any but 0, nothing was changed.

        The call waits in the kernel only while another program's transaction is being made. Raises OSError if the
        transaction failed as a whole.
        """
        subsystem = NFGENMSG.pack(NetfilterHeader(resource=NFNL_SUBSYS_NFTABLES))
        begin = Request(NFNL_MSG_BATCH_BEGIN, 0, subsystem)
        acknowledged = (Request(kind, flags | NLM_F_ACK, body) for kind, flags, body in requests)
        first = self.send([begin, *acknowledged, Request(NFNL_MSG_BATCH_END, 0, subsystem)])
        answers = self._answers()
        if answers.get(first, 0):
            raise OSError(answers[first], os.strerror(answers[first]))
        codes = tuple(answers.get(first + number, -1) for number in range(1, len(requests) + 1))
        if -1 in codes:
            raise OSError(errno.EIO, "the kernel has not answered")
        return codes

    def _answers(self) -> dict[int, int]:
        """Return error numbers by sequence number. The kernel has answered before it returns from ``send``."""
        found: dict[int, int] = {}
        while True:
            try:
                received = self.receive(wait=False)
            except BlockingIOError:
                return found
            found.update((each.sequence, error_code(each)) for each in received if each.kind == NLMSG_ERROR)


def elements(table: str, name: str, keys: Iterable[bytes], lifetime_ms: int = 0) -> bytes:
    """Return the body of a message about elements of the set ``name`` in a ``netdev`` table.

    ``lifetime_ms``: milliseconds from the transaction on after which the elements expire; 0: not given.
    """
    items = [nested(NFTA_LIST_ELEM, _element(key, lifetime_ms)) for key in keys]
    return NFGENMSG.pack(
        NetfilterHeader(NFPROTO["netdev"]),
        text(NFTA_SET_ELEM_LIST_TABLE, table),
        text(NFTA_SET_ELEM_LIST_SET, name),
        nested(NFTA_SET_ELEM_LIST_ELEMENTS, *items) if items else b"",
    )


def timeout_ms(answer: bytes) -> int:
    """Return the time-out of the first element in the answer to ``NFT_MSG_GETSETELEM``; 0 if it has none."""
    items = NFGENMSG.attributes(answer).get(NFTA_SET_ELEM_LIST_ELEMENTS, b"")
    element = attributes(attributes(items).get(NFTA_LIST_ELEM, b""))
    return int.from_bytes(element.get(NFTA_SET_ELEM_TIMEOUT, b""), "big")


def _element(key: bytes, lifetime_ms: int) -> bytes:
    data = nested(NFTA_SET_ELEM_KEY, attribute(NFTA_DATA_VALUE, key))
    if lifetime_ms:
        lifetime = lifetime_ms.to_bytes(MILLISECONDS_BYTES, "big")
        data += attribute(NFTA_SET_ELEM_TIMEOUT, lifetime) + attribute(NFTA_SET_ELEM_EXPIRATION, lifetime)
    return data
