"""The kernel's copy of a lease: what a node may say as a virtual address, and until when.

The text of the table is :mod:`gateway_agent.gateway_rules.fence`. Before lease request N goes out, ticket N is
written, with a lifetime. When a majority has granted request N, one transaction takes ticket N away and opens the
fence for a while. Where the ticket has expired, the kernel refuses the transaction whole: however late a stopped
process does what it was about to do, it opens nothing. So the fence is closed, at the latest, ticket lifetime +
opening after the ticket was written, by the kernel's own clock, whatever user space does.

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
"""Lifetimes below this count as over: the kernel rounds to ticks, of 10 ms at most, and 0 ticks are *for ever*."""
TRIAL = 0
"""The ticket by which is found out what the kernel makes of a refresh; never asked for."""
KEY = struct.Struct("=I")


class Fence:
    """A socket, opened once.

    No method takes longer than the kernel's transaction, some 0.1 ms, unless another program's transaction is on its
    way in the same moment, or another program closes a socket of netfilter: :mod:`cni.kernel.netlink.netfilter`. Raises
    :class:`KernelError` if the table is missing or the kernel refuses.
    """

    def __init__(self) -> None:
        self._socket = elements.TransactionSocket()
        self._in_place: bool | None = None

    def close_socket(self) -> None:
        """Close the socket. An open fence stays open until it expires."""
        self._socket.close()

    def ticket(self, number: int, lifetime_ns: int) -> None:
        """Lets :meth:`open` with this number come true for ``lifetime_ns`` from now.

        Of ``number`` the lower 32 bits count; it is not 0, and one that is still in force is an error.
        """
        if self._in_place is None:
            self._in_place = self._try_refresh()
        lifetime = lifetime_ns // 1_000_000
        if lifetime >= SHORTEST_MS:
            message = self._new(ids.FENCE_TICKETS, [_ticket(number)], lifetime, NLM_F_EXCL)
            self._commit(f"writing ticket {number}", [message])

    def open(self, number: int, addresses: Sequence[str], lifetime_ns: int) -> bool:
        """Use up a ticket to open the fence for these addresses, for ``lifetime_ns`` from now.

        Return False if the ticket has expired or was never written: then nothing has changed.
        """
        lifetime = lifetime_ns // 1_000_000
        if lifetime < SHORTEST_MS:
            return False
        messages = [self._delete(ids.FENCE_TICKETS, [_ticket(number)])]
        for name, keys in _by_set(addresses):
            messages.append(self._new(name, keys, lifetime))
            if not self._in_place:
                messages += [self._delete(name, keys), self._new(name, keys, lifetime)]
        codes = self._commit("", messages)
        if codes[0] == errno.ENOENT and not any(codes[1:]):
            return False
        if any(codes):
            raise refused(f"opening the fence for {', '.join(addresses)}", next(filter(None, codes)))
        return True

    def close(self, addresses: Iterable[str]) -> None:
        """Nothing is let through by these addresses any more, from the return on. What is closed may be closed."""
        messages = []
        for name, keys in _by_set(addresses):
            # Written first: deleting what is not there, because it has just expired, is an error.
            messages += [self._new(name, keys, SHORTEST_MS), self._delete(name, keys)]
        self._commit("closing the fence", messages, without_table=True)

    def close_all(self) -> None:
        """Forgets all that is open, and all tickets."""
        names = (ids.FENCE_TICKETS, ids.FENCE_OPEN4, ids.FENCE_OPEN6)
        self._commit("closing the fence", [self._delete(name, ()) for name in names], without_table=True)

    def _try_refresh(self) -> bool:
        """Return True if writing an element that exists moves its expiry: Linux 6.12 does, an older one ignores it."""
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
        """Without keys: all of them."""
        return Request(NFT_MSG_DELSETELEM, 0, _body(name, keys))

    def _commit(self, doing: str, messages: list[Request], without_table: bool = False) -> tuple[int, ...]:
        """Send a transaction. Raises if the kernel refuses; not if ``doing`` is empty: the caller judges answers."""
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
    """Keys by the name of their set."""
    found: dict[str, dict[bytes, None]] = {}
    for address in addresses:
        name = ids.FENCE_OPEN6 if ":" in address else ids.FENCE_OPEN4
        found.setdefault(name, {})[packed(address)] = None
    return [(name, list(keys)) for name, keys in found.items()]
