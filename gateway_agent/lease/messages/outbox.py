"""Datagrams on their way out: sealed for each receiver, encoded once for all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .wire import Body, Endpoint, encode


@dataclass(frozen=True)
class Send:
    address: str
    data: bytes


class Outbox:
    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._waiting: list[Send] = []

    def put(self, receivers: Iterable[str], body: Body) -> None:
        """``receivers``: names; those that are no peers, this node among them, are left out."""
        encoded = encode(body)
        for name in receivers:
            if name in self._endpoint.peers:
                datagram = self._endpoint.seal(name, encoded)
                self._waiting.append(Send(self._endpoint.peers[name], datagram))

    def reply(self, address: str, datagram: bytes) -> None:
        self._waiting.append(Send(address, datagram))

    def take(self) -> list[Send]:
        waiting, self._waiting = self._waiting, []
        return waiting
