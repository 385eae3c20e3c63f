"""The lease keeper's UDP socket."""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Callable

from ..core.wire import LIMIT

IP_FREEBIND = 15
NETWORK_CONTROL = 0xC0
"""IP precedence of routing protocols (RFC 4594, CS6): a busy link drops these last."""
BATCH = 64
"""Datagrams that are read before time is looked at again."""


class Datagrams:
    """To and from the keepers of the other nodes: one port for all."""

    def __init__(self, selector: selectors.BaseSelector, receive: Callable[[bytes, str], None]) -> None:
        """``receive``: takes a datagram and the address that it came from."""
        self._selector = selector
        self._take = receive
        self._socket: socket.socket | None = None
        self._bound = ("", 0)

    def bind(self, address: str, port: int) -> None:
        """Where to listen from now on; nowhere without an ``address``. Raises OSError that names both."""
        if (address, port) == self._bound and self._socket is not None:
            return
        self._close()
        if not address:
            return
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        # The address may come later than this process, at boot.
        udp.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
        with contextlib.suppress(OSError):
            udp.setsockopt(socket.SOL_IP, socket.IP_TOS, NETWORK_CONTROL)
        try:
            udp.bind((address, port))
        except OSError as error:
            udp.close()
            raise OSError(error.errno, f"UDP {address}:{port}: {error.strerror}") from error
        self._socket, self._bound = udp, (address, port)
        self._selector.register(udp, selectors.EVENT_READ, self._receive)

    def send(self, data: bytes, address: str) -> None:
        """Lost like any datagram: full buffers, no route, a firewall."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto(data, (address, self._bound[1]))

    def _receive(self) -> None:
        for _ in range(BATCH):
            if self._socket is None:
                return
            try:
                datagram, source = self._socket.recvfrom(LIMIT + 1)
            except BlockingIOError:
                return
            except OSError:
                # An ICMP error for an earlier datagram.
                continue
            self._take(datagram, source[0])

    def _close(self) -> None:
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
        self._socket, self._bound = None, ("", 0)
