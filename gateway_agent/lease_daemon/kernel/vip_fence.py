"""Open and close the fence: the kernel's copy of a lease, which says what may leave, and until when.

The text of the table is :mod:`gateway_agent.gateway_rules.fence`. Before lease request N is sent, ticket N is written,
with a lifetime. When a majority has granted request N, one transaction deletes ticket N and opens the fence for a
while. If the ticket has expired, the kernel refuses the whole transaction: a process that was stopped opens nothing,
however late it continues. So, whatever user space does, the fence closes by the kernel's own clock, at the latest
ticket lifetime + opening after the ticket was written.

Lifetimes are rounded down, to whole milliseconds and then to timer ticks of the kernel.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Sequence

from cni.kernel import ids
from cni.kernel.errors import KernelError, refused
from cni.kernel.netlink.addresses import packed
from cni.kernel.netlink.constants import (
    NFT_MSG_DELSETELEM,
    NFT_MSG_GETSETELEM,
    NFT_MSG_NEWSETELEM,
    NLM_F_CREATE,
    NLM_F_EXCL,
)
from cni.kernel.netlink.messages import Request
from cni.kernel.nftables import elements

SHORTEST_MS = 10
"""Lifetimes below this count as over: the kernel rounds to ticks of up to 10 ms, and 0 ticks mean *for ever*."""
TRIAL = 0
"""The ticket of the test of how the kernel handles a refresh. No request has this number."""
KEY = struct.Struct("=I")


class Fence:
    """The fence, by one netlink socket.

    No method takes longer than the kernel's transaction, some 0.1 ms, unless another program's transaction runs at the
    same moment, or another program closes a netfilter socket: :mod:`cni.kernel.netlink.netfilter`. Methods raise
    :class:`KernelError` if the table is missing or the kernel refuses.
    """

    def __init__(self) -> None:
        self._socket = elements.TransactionSocket()
        self._in_place: bool | None = None
        self._opened: tuple[tuple[str, ...], int, list[Request]] = (), 0, []
        """Addresses and lifetime of the last opening, and the messages that open the fence: at rest all are the same.
        """

    def close_socket(self) -> None:
        """Close the socket. An open fence stays open until it expires."""
        self._socket.close()

    def ticket(self, number: int, lifetime_ns: int) -> None:
        """Write a ticket: for ``lifetime_ns`` from now, :meth:`open` with this number succeeds.

        The lower 32 bits of ``number`` count, and they are not 0. A number whose ticket is still valid is an error.
        """
        if self._in_place is None:
            self._in_place = self._try_refresh()
        lifetime = lifetime_ns // 1_000_000
        if lifetime >= SHORTEST_MS:
            message = self._new(ids.FENCE_TICKETS, [_ticket(number)], lifetime, NLM_F_EXCL)
            self._commit(f"writing ticket {number}", [message])

    def open(self, number: int, addresses: Sequence[str], lifetime_ns: int) -> bool:
        """Delete a ticket and open the fence for these addresses, for ``lifetime_ns`` from now.

        Return False if the ticket has expired or was never written: then nothing has changed.
        """
        lifetime = lifetime_ns // 1_000_000
        if lifetime < SHORTEST_MS:
            return False
        ticket = self._delete(ids.FENCE_TICKETS, [_ticket(number)])
        codes = self._commit("", [ticket, *self._opening(addresses, lifetime)])
        if codes[0] == errno.ENOENT and not any(codes[1:]):
            return False
        if any(codes):
            raise refused(f"opening the fence for {', '.join(addresses)}", next(filter(None, codes)))
        return True

    def _opening(self, addresses: Sequence[str], lifetime_ms: int) -> list[Request]:
        if self._opened[:2] != (tuple(addresses), lifetime_ms):
            messages = []
            for name, keys in _by_set(addresses):
                messages.append(self._new(name, keys, lifetime_ms))
                if not self._in_place:
                    messages += [self._delete(name, keys), self._new(name, keys, lifetime_ms)]
            self._opened = tuple(addresses), lifetime_ms, messages
        return self._opened[2]

    def close(self, addresses: Iterable[str]) -> None:
        """Close the fence for these addresses: once this returns, it lets nothing through. It may be closed already."""
        messages = []
        for name, keys in _by_set(addresses):
            # Added first, because deleting an element that has just expired is an error.
            messages += [self._new(name, keys, SHORTEST_MS), self._delete(name, keys)]
        self._commit("closing the fence", messages, without_table=True)

    def close_all(self) -> None:
        """Close the fence for all addresses, and delete all tickets."""
        names = (ids.FENCE_TICKETS, ids.FENCE_OPEN4, ids.FENCE_OPEN6)
        self._commit("closing the fence", [self._delete(name, ()) for name in names], without_table=True)

    def _try_refresh(self) -> bool:
        """Return True if adding an existing element updates its expiry, as on Linux 6.12; older kernels ignore it."""
        key = [_ticket(TRIAL)]
        messages = [self._new(ids.FENCE_TICKETS, key, lifetime) for lifetime in (60_000, 30_000)]
        for message in messages:
            self._commit("looking at the fence", [message])
        try:
            answer = self._socket.request(NFT_MSG_GETSETELEM, 0, _body(ids.FENCE_TICKETS, key))
        except OSError as error:
            raise refused("looking at the fence", error.errno or errno.EIO) from error
        self._commit("looking at the fence", [self._delete(ids.FENCE_TICKETS, key)])
        return elements.timeout_ms(answer) == 30_000

    def _new(self, name: str, keys: Iterable[bytes], lifetime_ms: int, flags: int = 0) -> Request:
        return Request(NFT_MSG_NEWSETELEM, NLM_F_CREATE | flags, _body(name, keys, lifetime_ms))

    def _delete(self, name: str, keys: Iterable[bytes]) -> Request:
        """Return the request that deletes elements of a set; all of them if there are no keys."""
        return Request(NFT_MSG_DELSETELEM, 0, _body(name, keys))

    def _commit(self, doing: str, messages: list[Request], without_table: bool = False) -> tuple[int, ...]:
        """Send a transaction.

        Raises if the kernel refuses, unless ``doing`` is empty: then the caller checks the answers.
        """
        if not messages:
            return ()
        try:
            codes = self._socket.commit(messages)
        except OSError as error:
            raise refused(doing or "opening the fence", error.errno or errno.EIO) from error
        code = next(filter(None, codes), 0)
        if code and doing and not (without_table and code == errno.ENOENT):
            hint = f"is nftables table netdev {ids.NFT_FENCE} there?" if code == errno.ENOENT else ""
            raise KernelError(refused(doing, code).message, hint)
        return codes


def _body(name: str, keys: Iterable[bytes], lifetime_ms: int = 0) -> bytes:
    return elements.elements(ids.NFT_FENCE, name, keys, lifetime_ms)


def _ticket(number: int) -> bytes:
    return KEY.pack(number & 0xFFFFFFFF)


def _by_set(addresses: Iterable[str]) -> list[tuple[str, list[bytes]]]:
    """Return the keys by the name of their set."""
    found: dict[str, dict[bytes, None]] = {}
    for address in addresses:
        name = ids.FENCE_OPEN6 if ":" in address else ids.FENCE_OPEN4
        found.setdefault(name, {})[packed(address)] = None
    return [(name, list(keys)) for name, keys in found.items()]
