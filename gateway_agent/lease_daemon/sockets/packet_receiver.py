"""Receive frames about virtual addresses by packet sockets, filtered by the kernel and limited in a flood."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Iterator

from ...lease.virtual_ips import arp
from ...lease.virtual_ips.flood_limit import FloodLimit
from .closing import close_apart
from .packet_filter import JUMP, JUMP_EQUAL, LOAD_BYTE, LOAD_WORD, PACKET_TYPE, RETURN, Instruction, attach

BATCH = 64
"""Largest number of frames that are read before other sockets get their turn."""
MAX_FRAME_BYTES = 128
"""Bytes of a frame that are read: an advertisement with its option has 86."""
MAX_FILTERED_ADDRESSES = 200
"""Largest number of addresses that the filter compares: its jumps reach 255 instructions."""


class PacketReceiver:
    """One packet socket, open while it has addresses. It is bound to no interface: one that is gone may return."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        protocol: int,
        message_type: int,
        received: Callable[[bytes, str], None],
    ) -> None:
        """``message_type``: of ICMPv6, if the protocol is IPv6.

        ``received(frame, interface)`` is called for each frame, by the callback that is registered with the selector.
        """
        self._selector = selector
        self._protocol, self._message_type = protocol, message_type
        self._received = received
        self._socket: socket.socket | None = None
        self._addresses: frozenset[int] = frozenset()
        self._limit = FloodLimit()

    def set_addresses(self, addresses: frozenset[str]) -> None:
        """Receive, from now on, the frames about these addresses. Raises OSError."""
        wanted = frozenset(arp.filtered_part_of(address) for address in addresses)
        if wanted == self._addresses:
            return
        if self._socket is None:
            self._socket = socket.socket(
                socket.AF_PACKET,
                socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                socket.htons(self._protocol),
            )
            self._selector.register(self._socket, selectors.EVENT_READ, self._read)
        if wanted:
            # Frames that arrived before are filtered again when they are read.
            self._filter(wanted)
        else:
            self._selector.unregister(self._socket)
            close_apart([self._socket])
            self._socket = None
            self._limit = FloodLimit()
        self._addresses = wanted

    def next_wake(self) -> int:
        """Return when :meth:`resume` is due, as ``CLOCK_BOOTTIME`` in nanoseconds."""
        return self._limit.next_wake()

    def resume(self, now: int) -> frozenset[int]:
        """Unmute the addresses whose time is over, and return them."""
        if now < self._limit.next_wake():
            return frozenset()
        muted = self._limit.unmute(now)
        self._filter(self._addresses)
        return muted if _comparable(self._addresses) else self._addresses

    def _read(self) -> None:
        muted, now = self._limit.muted, time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for frame, interface in self._frames():
            address = arp.filtered_part(frame)
            if address in self._addresses and self._limit.take(address, now):
                self._received(frame, interface)
        if self._limit.muted != muted:
            self._filter(self._addresses)

    def _frames(self) -> Iterator[tuple[bytes, str]]:
        """Yield the received frames with their interfaces, except frames that this machine has sent."""
        for _ in range(BATCH):
            # The callback may have set other addresses, or none.
            if self._socket is None:
                return
            try:
                frame, sender = self._socket.recvfrom(MAX_FRAME_BYTES)
            except BlockingIOError:
                return
            except OSError:
                # An interface went down.
                continue
            if sender[2] != socket.PACKET_OUTGOING:
                yield frame, sender[0]

    def _filter(self, addresses: frozenset[int]) -> None:
        """Make the kernel drop all frames except those about addresses that are not muted."""
        if self._socket is None:
            return
        passing: frozenset[int] | None = addresses - self._limit.muted
        if not _comparable(addresses):
            passing = frozenset() if self._limit.muted else None
        attach(self._socket, _program(self._protocol, self._message_type, passing))


def _comparable(addresses: frozenset[int]) -> bool:
    return len(addresses) <= MAX_FILTERED_ADDRESSES


def _program(protocol: int, message_type: int, addresses: frozenset[int] | None) -> list[Instruction]:
    """Return a filter for frames about these addresses, by :func:`.arp.filtered_part`; None lets all addresses pass."""
    if protocol == arp.ETH_P_ARP:
        tests, address_at = [], arp.SENDER_AT
    else:
        tests = [(arp.PROTOCOL_AT, arp.ICMPV6), (arp.TYPE_AT, message_type)]
        address_at = arp.TARGET_AT + 12
    compared = [0] if addresses is None else sorted(addresses)
    refuse = 3 + 2 * len(tests) + len(compared)
    # A frame of a VLAN that this machine has no interface for counts as sent to another host, even a broadcast.
    program = [(LOAD_BYTE, 0, 0, PACKET_TYPE), (JUMP_EQUAL, refuse - 2, 0, socket.PACKET_OTHERHOST)]
    for offset, value in tests:
        program.append((LOAD_BYTE, 0, 0, offset))
        program.append((JUMP_EQUAL, 0, refuse - len(program) - 1, value))
    program.append((LOAD_WORD, 0, 0, address_at))
    for value in compared:
        program.append((JUMP_EQUAL, refuse - len(program), 0, value))
    if addresses is None:
        program[-1] = (JUMP, 0, 0, 1)
    return [*program, (RETURN, 0, 0, 0), (RETURN, 0, 0, MAX_FRAME_BYTES)]
