"""Probe upstream addresses with ICMP echo requests through the egress interface.

The socket is bound to the interface, and its packets have the mark and source of pods' packets, so an answer proves
that path and no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterator

from .probing import Probe

SO_BINDTODEVICE = 25
ECHO_REQUEST = {4: 8, 6: 128}
ECHO_REPLY = {4: 0, 6: 129}
SOCKETS = {4: (socket.AF_INET, socket.IPPROTO_ICMP), 6: (socket.AF_INET6, socket.IPPROTO_ICMPV6)}
DISCARD_PORT = 9
"""Any port: a connected UDP socket sends nothing by itself."""
_identifiers = itertools.count(os.getpid())
"""One identifier for each probe, because a raw socket receives the answers to all probes."""


class UpstreamProbe(Probe):
    """A probe by ICMP echo requests."""

    def __init__(
        self,
        interface: str,
        addresses: tuple[str, ...],
        interval: float,
        misses: int,
        changed: Callable[[], None],
        mark: int = 0,
        source: str = "",
    ) -> None:
        """``source``: address that the probes come from if this node has it; empty: the kernel chooses."""
        super().__init__(interface, addresses, interval, misses, changed, mark)
        self._source = source
        self._identifier = next(_identifiers) & 0xFFFF
        self._sequence = 0

    async def _round(self, answered: set[str], deadline: float) -> None:
        self._sequence = (self._sequence + 1) & 0xFFFF
        asked = {family: [a for a in self._missed if _family(a) == family] for family in SOCKETS}
        await asyncio.gather(
            *(self._ask(family, each, answered, deadline) for family, each in asked.items() if each)
        )

    async def _ask(
        self, family: int, addresses: Collection[str], answered: set[str], deadline: float
    ) -> None:
        """Probe the addresses of one family, and add those that answer. An address that cannot be probed is silent."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError), self._socket(family) as raw:
            for address in addresses:
                with contextlib.suppress(OSError):
                    raw.sendto(echo_request(self._identifier, self._sequence, family), self._target(address))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    while not answered.issuperset(addresses):
                        packet, (sender, *_) = await loop.sock_recvfrom(raw, 2048)
                        source = sender.partition("%")[0]
                        if source in addresses and is_echo_reply(
                            packet, self._identifier, self._sequence, family
                        ):
                            answered.add(source)

    @contextlib.contextmanager
    def _socket(self, family: int) -> Iterator[socket.socket]:
        """Yield a socket whose packets are routed like those of pods. Raises OSError."""
        version, protocol = SOCKETS[family]
        with socket.socket(version, socket.SOCK_RAW, protocol) as raw:
            raw.setblocking(False)
            raw.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, self.interface.encode() + b"\0")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
            if self._source and _family(self._source) == family and has(self._source):
                raw.bind((self._source, 0))
            yield raw

    def _target(self, address: str) -> tuple[str, int] | tuple[str, int, int, int]:
        """Return the socket address. A link-local one needs the interface."""
        local = address.startswith("fe80:")
        return (address, 0, 0, socket.if_nametoindex(self.interface)) if local else (address, 0)


def has(address: str) -> bool:
    """Return True if an interface of this machine has the address.

    ``bind`` is no proof: with ``ip_nonlocal_bind`` it accepts any address. To an own address, the kernel uses the same
    address as source.
    """
    with socket.socket(SOCKETS[_family(address)][0], socket.SOCK_DGRAM) as udp:
        try:
            udp.connect((address, DISCARD_PORT))
        except OSError:
            return False
        return bool(udp.getsockname()[0] == address)


def _family(address: str) -> int:
    return 6 if ":" in address else 4


def echo_request(identifier: int, sequence: int, family: int = 4) -> bytes:
    """Return an ICMP echo request (RFC 792) with its checksum (RFC 1071).

    The checksum of ICMPv6 (RFC 4443) covers addresses, and the kernel writes it.
    """
    kind = ECHO_REQUEST[family]
    if family == 6:
        return struct.pack("!BBHHH", kind, 0, 0, identifier, sequence)
    header = struct.pack("!BBHHH", kind, 0, 0, identifier, sequence)
    total = sum(struct.unpack("!4H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBHHH", kind, 0, ~total & 0xFFFF, identifier, sequence)


def is_echo_reply(packet: bytes, identifier: int, sequence: int, family: int = 4) -> bool:
    """Return True if a packet from a raw socket answers our request. An IPv4 packet has its IP header."""
    if family == 4 and len(packet) < 20:
        return False
    body = packet[(packet[0] & 0x0F) * 4 :] if family == 4 else packet
    if len(body) < 8:
        return False
    kind, code, _, got_identifier, got_sequence = struct.unpack("!BBHHH", body[:8])
    return (kind, code, got_identifier, got_sequence) == (ECHO_REPLY[family], 0, identifier, sequence)
