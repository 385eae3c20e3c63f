"""Send and receive datagrams by the lease daemon's UDP socket."""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Callable

from ...lease.messages.wire import MAX_DATAGRAM_BYTES

# <linux/in.h>, <linux/in6.h>
IP_FREEBIND = 15
IPV6_FREEBIND = 78
NETWORK_CONTROL = 0xC0
"""Precedence of routing protocols (RFC 4594, CS6): a busy link drops these last."""
SO_RCVBUFFORCE = 33
"""<asm-generic/socket.h>."""
QUEUE = 4 << 20
"""Bytes of the kernel's receive queue: some thousand datagrams, so that a burst displaces no heartbeat."""
BATCH = 64
"""Largest number of datagrams that are passed on together before the clock is read again."""


class Datagrams:
    """The socket to and from the lease daemons of the other nodes, by one port for all."""

    def __init__(
        self, selector: selectors.BaseSelector, receive: Callable[[list[tuple[bytes, str]]], None]
    ) -> None:
        """``receive``: is called with one or more datagrams, each with its source address in canonical form."""
        self._selector = selector
        self._take = receive
        self._socket: socket.socket | None = None
        self._bound = ("", 0)

    def bind(self, address: str, port: int) -> None:
        """Listen, from now on, at an address and port; without an ``address``, nowhere.

        Raises OSError that names both.
        """
        if (address, port) == self._bound and self._socket is not None:
            return
        self._close()
        if not address:
            return
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            _prepare(udp)
            udp.bind((address, port))
        except OSError as error:
            udp.close()
            where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            raise OSError(error.errno, f"UDP {where}: {error.strerror}") from error
        self._socket, self._bound = udp, (address, port)
        self._selector.register(udp, selectors.EVENT_READ, self._receive)

    def send(self, data: bytes, address: str) -> None:
        """Send a datagram, which may be lost: full buffers, no route, a firewall."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto(data, (address, self._bound[1]))

    def _receive(self) -> None:
        arrived: list[tuple[bytes, str]] = []
        for _ in range(BATCH):
            assert self._socket is not None
            try:
                datagram, source = self._socket.recvfrom(MAX_DATAGRAM_BYTES + 1)
            except BlockingIOError:
                break
            except OSError:
                # An ICMP error for an earlier datagram.
                continue
            # The source of IPv6 also has port, flow and scope; the kernel's form of an address is the canonical one.
            arrived.append((datagram, source[0]))
        if arrived:
            self._take(arrived)

    def _close(self) -> None:
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
        self._socket, self._bound = None, ("", 0)


def _prepare(udp: socket.socket) -> None:
    """Set the options of the socket. Raises OSError."""
    if udp.family == socket.AF_INET6:
        level, freebind, precedence = socket.IPPROTO_IPV6, IPV6_FREEBIND, socket.IPV6_TCLASS
    else:
        level, freebind, precedence = socket.IPPROTO_IP, IP_FREEBIND, socket.IP_TOS
    # At boot the address may appear later than this process; an IPv6 one waits for duplicate detection as well.
    udp.setsockopt(level, freebind, 1)
    with contextlib.suppress(OSError):
        udp.setsockopt(level, precedence, NETWORK_CONTROL)
    with contextlib.suppress(OSError):
        udp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE)
