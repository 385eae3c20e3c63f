"""Probe upstream addresses with ICMP echo requests through the egress interface.

The socket is bound to the interface, so an answer proves that this path works, and no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable

SO_BINDTODEVICE = 25
ECHO_REQUEST = 8
ECHO_REPLY = 0


class UpstreamProbe:
    """Sends an echo request to each address every ``interval`` seconds.

    An address is silent after ``misses`` unanswered requests in a row. ``changed``: called when an address becomes
    silent or answers again.
    """

    def __init__(
        self,
        interface: str,
        addresses: tuple[str, ...],
        interval: float,
        misses: int,
        changed: Callable[[], None],
    ) -> None:
        self.interface = interface
        self._missed = dict.fromkeys(addresses, 0)
        self._interval = interval
        self._misses = misses
        self._changed = changed
        self._identifier = os.getpid() & 0xFFFF
        self._sequence = 0

    @property
    def silent(self) -> tuple[str, ...]:
        """Return the addresses that do not answer."""
        return tuple(address for address, missed in self._missed.items() if missed >= self._misses)

    async def run(self) -> None:
        """Probe until cancelled. A missing interface counts as an unanswered request."""
        loop = asyncio.get_running_loop()
        while True:
            before = self.silent
            deadline = loop.time() + self._interval
            answered: set[str] = set()
            with contextlib.suppress(OSError):
                await self._round(answered, deadline)
            for address in self._missed:
                self._missed[address] = 0 if address in answered else self._missed[address] + 1
            if self.silent != before:
                self._changed()
            await asyncio.sleep(max(0.0, deadline - loop.time()))

    async def _round(self, answered: set[str], deadline: float) -> None:
        loop = asyncio.get_running_loop()
        self._sequence = (self._sequence + 1) & 0xFFFF
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            raw.setblocking(False)
            raw.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, self.interface.encode() + b"\0")
            for address in self._missed:
                with contextlib.suppress(OSError):
                    raw.sendto(echo_request(self._identifier, self._sequence), (address, 0))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    while answered != set(self._missed):
                        packet, (source, _) = await loop.sock_recvfrom(raw, 2048)
                        if source in self._missed and is_echo_reply(packet, self._identifier, self._sequence):
                            answered.add(source)


def echo_request(identifier: int, sequence: int) -> bytes:
    """Return an ICMP echo request (RFC 792) with its checksum (RFC 1071)."""
    header = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, identifier, sequence)
    total = sum(struct.unpack("!4H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBHHH", ECHO_REQUEST, 0, ~total & 0xFFFF, identifier, sequence)


def is_echo_reply(packet: bytes, identifier: int, sequence: int) -> bool:
    """Return True if an IPv4 packet, with its header as from a raw socket, answers our request."""
    if len(packet) < 20:
        return False
    body = packet[(packet[0] & 0x0F) * 4 :]
    if len(body) < 8:
        return False
    kind, code, _, got_identifier, got_sequence = struct.unpack("!BBHHH", body[:8])
    return (kind, code, got_identifier, got_sequence) == (ECHO_REPLY, 0, identifier, sequence)
