"""Queue the datagrams of one input: encoded once, sealed for each receiver."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from .bodies import Body, encode
from .wire import Endpoint


class Send(msgspec.Struct, frozen=True):
    """Send a datagram to an address."""

    address: str
    data: bytes


class Outbox:
    """The datagrams of one input."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._waiting: list[Send] = []

    def put(self, receivers: Iterable[str], body: Body) -> None:
        """Queue a message to each of ``receivers``, which are names.

        Names of no peer, such as this node's, are left out.
        """
        encoded = encode(body)
        for name in receivers:
            if name in self._endpoint.peers:
                datagram = self._endpoint.seal(name, encoded)
                self._waiting.append(Send(self._endpoint.peers[name], datagram))

    def reply(self, address: str, datagram: bytes) -> None:
        """Queue a datagram that is already sealed."""
        self._waiting.append(Send(address, datagram))

    def take(self) -> list[Send]:
        """Return all datagrams, in order, and empty the queue."""
        waiting, self._waiting = self._waiting, []
        return waiting
