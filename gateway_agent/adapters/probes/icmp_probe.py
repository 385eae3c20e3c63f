"""Probe upstream addresses with ICMP echo requests through the egress interface.

The socket is bound to the interface, and its packets have the mark of those that pods send there: so an answer says
something about *that* path and no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct

from .probing import Probe

SO_BINDTODEVICE = 25
ECHO_REQUEST = 8
ECHO_REPLY = 0
IDENTIFIER = os.getpid() & 0xFFFF


class UpstreamProbe(Probe):
    """Asks by ICMP echo, IPv4 only."""

    _sequence = 0

    async def _round(self, answered: set[str], deadline: float) -> None:
        loop = asyncio.get_running_loop()
        self._sequence = (self._sequence + 1) & 0xFFFF
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            raw.setblocking(False)
            raw.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, self.interface.encode() + b"\0")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
            for address in self._missed:
                with contextlib.suppress(OSError):
                    raw.sendto(echo_request(IDENTIFIER, self._sequence), (address, 0))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    while answered != set(self._missed):
                        packet, (source, _) = await loop.sock_recvfrom(raw, 2048)
                        if source in self._missed and is_echo_reply(packet, IDENTIFIER, self._sequence):
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
