"""One netlink socket for all hand-written netlink: requests, listings, transactions and events."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from typing import TypeVar

from .constants import (
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_DROP_MEMBERSHIP,
    NETLINK_GET_STRICT_CHK,
    NETLINK_ROUTE,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    SO_RCVBUFFORCE,
    SOL_NETLINK,
)
from .messages import Message, Request, encode, signed, split

S = TypeVar("S", bound="Socket")

MAX_DUMPS = 3
"""Attempts at a listing whose objects change during the listing."""
RECEIVE_BYTES = 1 << 17
"""The kernel sends at most 32 KiB at once, and 64 KiB of an interface with many virtual functions."""


class Socket:
    """A netlink socket in the network namespace of the thread that makes it.

    One thread at a time uses it. Each method raises OSError if the kernel refuses.
    """

    def __init__(
        self, family: int = NETLINK_ROUTE, strict: bool = False, timeout_s: float | None = None
    ) -> None:
        """``strict``: the kernel lists only the objects that the header of a request names; else it lists all.

        ``timeout_s``: seconds after which waiting for a message is a :class:`TimeoutError`; None: never.
        """
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._sequence = 0
        try:
            if strict:
                self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
            self._socket.settimeout(timeout_s)
            self._socket.bind((0, 0))
        except OSError:
            self.close()
            raise

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; its subscriptions end."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor, for an event loop."""
        return self._socket.fileno()

    def set_timeout(self, seconds: float) -> None:
        """Let waiting for a message end with :class:`TimeoutError` after so many seconds."""
        self._socket.settimeout(seconds)

    def subscribe(self, groups: Iterable[int], buffer_bytes: int) -> None:
        """Receive the kernel's messages to these multicast groups from now on.

        ``buffer_bytes``: room for messages that wait to be received. Beyond, messages are lost, and :meth:`receive`
        fails once with ENOBUFS.
        """
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer_bytes)
        except PermissionError:
            # Up to net.core.rmem_max.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        for group in groups:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def unsubscribe(self, groups: Iterable[int]) -> None:
        """Leave these groups, and drop the messages that wait to be received."""
        for group in groups:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, group)
        self._socket.settimeout(0.0)
        while self._drop_one():
            pass

    def _drop_one(self) -> bool:
        """Drop the bytes of one ``recv``. Return False if no message waits."""
        try:
            self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            # Messages were lost before.
            if error.errno != errno.ENOBUFS:
                raise
        return True

    def send(self, requests: Iterable[Request]) -> int:
        """Send requests in one system call. Return the sequence number of the first; the others follow it."""
        first = self._sequence + 1
        data = b""
        for request in requests:
            self._sequence += 1
            data += encode(request, NLM_F_REQUEST, self._sequence)
        self._socket.send(data)
        return first

    def receive(self, wait: bool = True) -> list[Message]:
        """Return the messages of one ``recv``. Raises BlockingIOError if no message waits and ``wait`` is False."""
        return list(split(self._socket.recv(RECEIVE_BYTES, 0 if wait else socket.MSG_DONTWAIT)))

    def request(self, kind: int, flags: int, body: bytes) -> bytes:
        """Return the body of the answer to one request; empty if the kernel only acknowledges it."""
        number = self.send([Request(kind, flags, body)])
        while True:
            for message in self.receive():
                if message.sequence == number:
                    if message.kind != NLMSG_ERROR:
                        return message.body
                    _check(message)
                    return b""

    def dump(self, kind: int, body: bytes, tries: int = MAX_DUMPS, may_change: bool = False) -> list[Message]:
        """Return all messages of a listing that shows one state.

        ``may_change``: the state may change during the listing; the caller knows if that concerns it. Else raises
        :class:`InterruptedError` if the state has changed during each of ``tries`` listings.
        """
        for _ in range(tries):
            found, consistent = self._listing(self.send([Request(kind, NLM_F_DUMP, body)]))
            if consistent or may_change:
                return found
        raise OSError(errno.EINTR, os.strerror(errno.EINTR))

    def _listing(self, number: int) -> tuple[list[Message], bool]:
        """Return the messages up to the end, and True if they show one state."""
        found: list[Message] = []
        consistent = True
        while True:
            for message in self.receive():
                if message.sequence != number:
                    continue
                consistent = consistent and not message.flags & NLM_F_DUMP_INTR
                if message.kind in (NLMSG_ERROR, NLMSG_DONE):
                    _check(message)
                if message.kind == NLMSG_DONE:
                    return found, consistent
                found.append(message)


def error_code(message: Message) -> int:
    """Return the error number of an acknowledgement (``struct nlmsgerr``) or of the end of a listing; 0: none.

    Raises OSError (EBADMSG) if the message has none.
    """
    return -signed(message.body)


def _check(message: Message) -> None:
    code = error_code(message)
    if code > 0:
        raise OSError(code, os.strerror(code))
