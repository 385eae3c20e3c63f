"""Traffic of the data path lab: connections, datagrams, witnesses of what arrives, forged packets."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass

from tests.lab.capture import Capture

PORT = 8080


class Conversation:
    """A TCP connection to the service."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._lines = sock.makefile("r")
        self.seen_as = self._lines.readline().split()[-1]

    def echo(self) -> bool:
        """Whether a line comes back. Raises :class:`OSError` where the connection has ended."""
        self.sock.sendall(b"hello\n")
        return self._lines.readline() == "hello\n"

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self.sock.close()


def is_reset(conversation: Conversation) -> bool:
    """Whether the connection ends with a reset, not with silence."""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        conversation.echo()
        return False
    return True


class Datagrams:
    """A UDP socket: all its datagrams to one address are one connection to the kernel."""

    def __init__(self, sock: socket.socket, service: str) -> None:
        self.sock, self._service = sock, service
        sock.settimeout(0.3)

    @property
    def port(self) -> int:
        """Its own."""
        return int(self.sock.getsockname()[1])

    def seen_as(self) -> str:
        """Return the client address that the service sees; raises :class:`OSError` without an answer in 0.3 s."""
        self.sock.sendto(b"x", (self._service, PORT))
        return self.sock.recv(100).split()[1].decode()

    def answered(self) -> bool:
        """Return True if the service answers in 0.3 s."""
        try:
            return bool(self.seen_as())
        except TimeoutError:
            return False

    def __enter__(self) -> Datagrams:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


@dataclass(frozen=True)
class Witness:
    direct: Capture
    egress: Capture

    def sources(self) -> set[str]:
        """Addresses from which packets for the service came."""
        packets = [*self.direct.packets(PORT), *self.egress.packets(PORT)]
        return {packet.source for packet in packets}


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
