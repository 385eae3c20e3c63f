"""A witness: every IP packet that arrives at an interface, with its source address and time."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType

from .namespace import Namespace

# <asm-generic/socket.h>, <linux/if_ether.h>, <linux/if_packet.h>
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_PACKET_OUTGOING = 4

_BUFFER = 32 << 20
_ENOUGH = 128
"""Bytes of each packet that are looked at: the longest headers fit."""


@dataclass(frozen=True)
class Packet:
    """What matters of one packet. Ports are 0 for anything but TCP and UDP."""

    at: int
    """Arrival by the kernel's clock, nanoseconds since 1970."""
    source: str
    protocol: int
    source_port: int
    destination_port: int


def parse(data: bytes, at: int) -> Packet | None:
    """Return the packet in ``data``, which begins with its IP header; None if it is neither IPv4 nor IPv6."""
    version = data[0] >> 4 if data else 0
    if version == 4 and len(data) >= 20:
        source, protocol, header = str(IPv4Address(data[12:16])), data[9], (data[0] & 15) * 4
    elif version == 6 and len(data) >= 40:
        source, protocol, header = str(IPv6Address(data[8:24])), data[6], 40
        if protocol in (socket.IPPROTO_ROUTING, socket.IPPROTO_DSTOPTS) and len(data) >= header + 8:
            protocol, header = data[header], header + 8 + data[header + 1] * 8
    else:
        return None
    ports = (0, 0)
    if protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP) and len(data) >= header + 4:
        ports = struct.unpack_from("!HH", data, header)
    return Packet(at, source, protocol, *ports)


class Capture:
    """Captures from its making to :meth:`close`; use it in a ``with`` statement."""

    def __init__(self, machine: Namespace, interface: str) -> None:
        self._packets: list[Packet] = []
        self._lost = 0
        self._lock = threading.Lock()
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        # Cooked: the link layer's header is left out, so every packet begins with its IP header.
        self._socket = machine.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        machine.inside(lambda: self._socket.bind((interface, _ETH_P_ALL)))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        os.eventfd_write(self._end, 1)
        self._reader.join()
        os.close(self._end)
        self._socket.close()

    def packets(self, port: int = 0) -> list[Packet]:
        """All that arrived until now; with ``port`` only TCP and UDP to that port.

        Raises :class:`RuntimeError` where the kernel dropped a packet before it was read: then the capture
        proves nothing.
        """
        self._drain()
        if self._lost:
            raise RuntimeError(f"the capture missed {self._lost} packets")
        with self._lock:
            return [p for p in self._packets if not port or p.destination_port == port]

    def sources(self, port: int = 0) -> set[str]:
        """Return the addresses from which packets arrived."""
        return {packet.source for packet in self.packets(port)}

    def _read(self) -> None:
        ready = select.poll()
        for readable in (self._socket.fileno(), self._end):
            ready.register(readable, select.POLLIN)
        while self._end not in (descriptor for descriptor, _ in ready.poll()):
            self._drain()

    def _drain(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):
            while True:
                data, extra, _, sender = self._socket.recvmsg(_ENOUGH, 64, socket.MSG_DONTWAIT)
                packet = parse(data, _arrival(extra)) if sender[2] != _PACKET_OUTGOING else None
                if packet is not None:
                    self._packets.append(packet)
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        self._lost += struct.unpack("II", statistics)[1]


def _arrival(extra: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in extra:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("ll", data[:16])
            return int(seconds * 1_000_000_000 + nanoseconds)
    raise ValueError("the kernel gave a packet without its time")
