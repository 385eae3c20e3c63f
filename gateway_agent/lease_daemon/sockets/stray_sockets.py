"""Receive packets that silent nodes send to other ports, and ICMP errors that no program listens at their port.

The packet sockets are open only for the few seconds of each search, because they inspect each incoming packet.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from cni.kernel.errors import KernelError
from cni.kernel.netlink.addresses import observe
from cni.kernel.netlink.netlink_socket import Socket

from ...lease.messages.keys import MAC_BYTES
from ...lease.messages.strays import GAP_NS
from .closing import close_apart
from .packet_filter import (
    AND,
    JUMP_ANY_BIT,
    JUMP_EQUAL,
    LOAD_BYTE,
    LOAD_BYTE_AT_INDEX,
    LOAD_HALF,
    LOAD_HALF_AT_INDEX,
    LOAD_INDEX,
    LOAD_INDEX_BY_IPV4_HEADER,
    LOAD_WORD,
    PACKET_TYPE,
    RETURN,
    Instruction,
    attach,
)

# linux/if_ether.h
PROTOCOLS = {4: 0x0800, 6: 0x86DD}
"""ETH_P_IP, ETH_P_IPV6."""
PORT_UNREACHABLE = {4: (1, 3, 3), 6: (58, 1, 4)}
"""Protocol, type and code of the ICMP message by family (RFC 792, RFC 4443)."""
CLOEXEC_NONBLOCK = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
UDP, UDP_HEADER, ICMP_HEADER, IPV6_HEADER = 17, 8, 8, 40
FRAGMENT = 0x1FFF
"""Mask of the fragment offset in an IPv4 header."""
LIST = 0x90
"""The upper half of the byte behind the keyed hash of our messages: a MessagePack list of less than 16 elements."""
MAX_DATAGRAM_BYTES = 65535
MAX_CHECKED_PACKETS = 64
"""Largest number of packets of one socket that are checked in one search: each may cost a keyed hash for each key."""
MAX_OTHER_ADDRESSES = 8
"""Largest number of this node's addresses of the other family that are searched."""
BATCH = 8
"""Largest number of datagrams that are read before other sockets get their turn."""


class StrayListener:
    """Search of stray packets, which calls ``refused(address)`` and ``arrived(datagram, source, port)``."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        refused: Callable[[str], None],
        arrived: Callable[[bytes, str, int], None],
    ) -> None:
        self._selector = selector
        self._refused = refused
        self._arrived = arrived
        self._open: dict[socket.socket, int] = {}
        """Number of packets of each socket that may still be checked."""
        self._until = 0

    def listen(self, address: str, port: int, tunnel_port: int, now: int) -> None:
        """Listen for a few seconds. ``address``, ``port``: of this node's socket, whose datagrams are not strays.

        Raises OSError if packet sockets are not available.
        """
        self.close()
        self._until = now + GAP_NS
        family, other = (6, 4) if ":" in address else (4, 6)
        self._listen(PROTOCOLS[family], messages(family, (tunnel_port, port), address), self._take_message)
        for own in _addresses(other):
            self._listen(PROTOCOLS[other], messages(other, (tunnel_port,), own), self._take_message)
        # Kernels limit the rate of these errors: a plain UDP socket would often miss the error for it.
        self._listen(PROTOCOLS[family], refusals(family, address), partial(self._take_refusal, port))

    def close_expired(self, now: int) -> None:
        """End a search whose time is over."""
        if self._open and now >= self._until:
            self.close()

    def close(self) -> None:
        """End the search, if one runs: close its sockets."""
        self._close(*self._open)

    def _close(self, *sockets: socket.socket) -> None:
        open_now = [sock for sock in sockets if self._open.pop(sock, None) is not None]
        for sock in open_now:
            self._selector.unregister(sock)
        close_apart(open_now)

    def _listen(self, protocol: int, program: Sequence[Instruction], take: Callable[[bytes], None]) -> None:
        # Packets that arrive before the filter is attached are checked, too: they are either not authentic, or
        # relevant.
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | CLOEXEC_NONBLOCK, socket.htons(protocol))
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MAX_DATAGRAM_BYTES)
            attach(sock, program)
        except OSError:
            close_apart([sock])
            raise
        self._selector.register(sock, selectors.EVENT_READ, partial(self._read, sock, take))
        self._open[sock] = MAX_CHECKED_PACKETS

    def _read(self, sock: socket.socket, take: Callable[[bytes], None]) -> None:
        for _ in range(BATCH):
            left = self._open.get(sock, 0)
            if left <= 0:
                self._close(sock)
                return
            try:
                packet = sock.recv(MAX_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError:
                # An interface went down.
                continue
            self._open[sock] = left - 1
            # Anyone can send such packets.
            with contextlib.suppress(ValueError, IndexError, struct.error):
                take(packet)

    def _take_message(self, packet: bytes) -> None:
        source, _, port, payload = _udp(packet)
        self._arrived(payload, source, port)

    def _take_refusal(self, port: int, packet: bytes) -> None:
        # An ICMP error has as many bytes before the packet that it is about in both families.
        _, asked, asked_port, _ = _udp(packet[_header(packet) + ICMP_HEADER :])
        if asked_port == port:
            self._refused(asked)


def _header(packet: bytes) -> int:
    """Return the length of an IP header."""
    return (packet[0] & 0xF) * 4 if packet[0] >> 4 == 4 else IPV6_HEADER


def _udp(packet: bytes) -> tuple[str, str, int, bytes]:
    """Return source, destination, destination port and payload of a UDP packet.

    Raises ValueError, IndexError or struct.error if the packet is too short.
    """
    family, first, size = (socket.AF_INET, 12, 4) if packet[0] >> 4 == 4 else (socket.AF_INET6, 8, 16)
    source, destination = (socket.inet_ntop(family, packet[at : at + size]) for at in (first, first + size))
    begin = _header(packet)
    port, length = struct.unpack_from("!HH", packet, begin + 2)
    return source, destination, port, packet[begin + UDP_HEADER : begin + length]


Test = tuple[Instruction, tuple[int, int, bool] | None]
"""A load instruction, and the test of the value, if any: operation, operand, and the required result."""


def _addresses(family: int) -> list[str]:
    """Return some global addresses of this node. Raises OSError."""
    try:
        with Socket() as kernel:
            found = [a.address for a in observe(kernel) if not a.scope and not a.ours]
    except KernelError as error:
        raise OSError(errno.EIO, error.message) from error
    return [address for address in found if (":" in address) == (family == 6)][:MAX_OTHER_ADDRESSES]


def messages(family: int, but: Iterable[int], to: str) -> list[Instruction]:
    """Return a program for UDP packets ``to`` this node that look like our messages; the ports ``but`` are excepted."""
    return _program(
        [
            *_to_this_node(family, UDP, to),
            *(((LOAD_HALF_AT_INDEX, 0, 0, 2), (JUMP_EQUAL, port, False)) for port in but),
            ((LOAD_BYTE_AT_INDEX, 0, 0, UDP_HEADER + MAC_BYTES), None),
            ((AND, 0, 0, 0xF0), (JUMP_EQUAL, LIST, True)),
        ]
    )


def refusals(family: int, to: str) -> list[Instruction]:
    """Return a program for ICMP errors ``to`` this node which say that no program listens at a port."""
    protocol, kind, code = PORT_UNREACHABLE[family]
    return _program(
        [
            *_to_this_node(family, protocol, to),
            ((LOAD_BYTE_AT_INDEX, 0, 0, 0), (JUMP_EQUAL, kind, True)),
            ((LOAD_BYTE_AT_INDEX, 0, 0, 1), (JUMP_EQUAL, code, True)),
        ]
    )


def _to_this_node(family: int, protocol: int, to: str) -> Iterator[Test]:
    """Yield the tests for packets of a protocol; after them, the index register has the offset of its header.

    ``to``: an address of this node. Without this test, forwarded packets, such as those of pods, would pass.
    """
    yield (LOAD_BYTE, 0, 0, PACKET_TYPE), (JUMP_EQUAL, socket.PACKET_HOST, True)
    first, size, kind = (16, 4, socket.AF_INET) if family == 4 else (24, 16, socket.AF_INET6)
    address = socket.inet_pton(kind, to)
    for at in range(0, size, 4):
        part = int.from_bytes(address[at : at + 4], "big")
        yield (LOAD_WORD, 0, 0, first + at), (JUMP_EQUAL, part, True)
    if family == 4:
        yield (LOAD_BYTE, 0, 0, 9), (JUMP_EQUAL, protocol, True)
        yield (LOAD_HALF, 0, 0, 6), (JUMP_ANY_BIT, FRAGMENT, False)
        yield (LOAD_INDEX_BY_IPV4_HEADER, 0, 0, 0), None
    else:
        yield (LOAD_BYTE, 0, 0, 6), (JUMP_EQUAL, protocol, True)
        yield (LOAD_INDEX, 0, 0, IPV6_HEADER), None


def _program(tests: Sequence[Test]) -> list[Instruction]:
    """Return a program for packets that pass all tests."""
    size = sum(1 + (test is not None) for _, test in tests)
    program: list[Instruction] = []
    for load, test in tests:
        program.append(load)
        if test is not None:
            operation, value, wanted = test
            refuse = size - len(program)
            program.append((operation, 0, refuse, value) if wanted else (operation, refuse, 0, value))
    return [*program, (RETURN, 0, 0, MAX_DATAGRAM_BYTES), (RETURN, 0, 0, 0)]
