"""Tells the network who has a virtual address, and hears who else says so.

The kernel answers who asks for an IPv4 address. It would answer for an IPv6 address only if the address stood on the
interface, where programs would take it for the node's: so the answer is given here.

The frames are made and read by :mod:`gateway_agent.lease.virtual_ips.arp`. They pass the fence like any other.
"""

from __future__ import annotations

import contextlib
import fcntl
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator

from ..lease.messages.rate_limiter import RateLimiter
from ..lease.virtual_ips import arp
from .packet_filter import JUMP, JUMP_EQUAL, LOAD_BYTE, LOAD_WORD, PACKET_TYPE, RETURN, Instruction, attach

# linux/sockios.h, linux/if_arp.h, linux/pkt_sched.h
SIOCGIFHWADDR = 0x8927
ARPHRD_ETHER = 1
TC_PRIO_CONTROL = 7
SOCKET_FLAGS = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
BATCH = 64
"""Frames that are read before others have their turn."""
MAX_FRAME_BYTES = 128
"""Bytes of a frame that are looked at: an advertisement with its option has 86."""
MAX_FILTERED_ADDRESSES = 200
"""With more addresses the kernel's filter lets all claims through: its jumps reach 255 instructions."""
ANSWERS, ANSWER_GAP_NS = 256, 500_000
"""So many questions are answered at once, then one each half millisecond: a flood of them holds up no lease."""


class Announcer:
    """Speaks, and listens once :meth:`listen` has said to whom it tells what it hears. Raises OSError where packet
    sockets are not to be had; an interface that is gone or down is no error."""

    def __init__(self) -> None:
        # Protocol 0 receives nothing. The kernel writes the Ethernet header: its length depends on the device.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | SOCKET_FLAGS, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, TC_PRIO_CONTROL)
        self._selector: selectors.BaseSelector | None = None
        self._heard: Callable[[str, str, str], None] = lambda address, mac, interface: None
        self._watched: dict[tuple[str, str], str] = {}
        """The address as it was given, by the one way to write it and the interface."""
        self._answered: set[tuple[str, str]] = set()
        """IPv6 addresses, written that way, and interfaces."""
        self._groups: socket.socket | None = None
        self._pace = RateLimiter(ANSWERS, ANSWER_GAP_NS)
        self._ears: dict[tuple[int, int], tuple[socket.socket, frozenset[str]]] = {}
        """By protocol and type of an ICMPv6 message: the socket, and the addresses that its filter lets through."""

    def close(self) -> None:
        self.watch(())
        for address, interface in tuple(self._answered):
            self.silence(address, interface)
        if self._groups is not None:
            self._groups.close()
        self._socket.close()

    def announce(self, address: str, interface: str) -> bool:
        """Says once to all that ``address`` is at this interface. False where that was not possible."""
        frame = arp.advertisement if ":" in address else arp.gratuitous
        return self._send(interface, lambda mac: frame(address, mac))

    def probe(self, address: str, interface: str) -> bool:
        """Asks once who has ``address``: who answers is heard if it is watched. False where that was not possible."""
        return self._send(interface, lambda mac: arp.probe(address, mac))

    def listen(self, selector: selectors.BaseSelector, heard: Callable[[str, str, str], None]) -> None:
        """``heard(address, mac, interface)`` is called, from what is registered as data with the selector, for each
        frame by which another MAC claims an address that is watched."""
        self._selector, self._heard = selector, heard

    def watch(self, targets: Iterable[tuple[str, str]]) -> None:
        """Which (address, interface) to listen for from now on. Raises OSError; without :meth:`listen` before, it
        does nothing."""
        if self._selector is None:
            return
        self._watched = {(arp.canonical(address), interface): address for address, interface in targets}
        addresses = {address for address, _ in self._watched}
        self._hear(arp.ETH_P_ARP, 0, frozenset(a for a in addresses if ":" not in a), self._claims)
        six = frozenset(a for a in addresses if ":" in a)
        self._hear(arp.ETH_P_IPV6, arp.NEIGHBOR_ADVERTISEMENT, six, self._claims)

    def answer(self, address: str, interface: str) -> None:
        """Answer from now on who asks for an IPv6 address at an interface; without :meth:`listen` before, do nothing.

        May be done again, after the interface was away. Raises OSError.
        """
        if ":" in address and self._selector is not None:
            self._answered.add((arp.canonical(address), interface))
            self._hear_questions()
            with contextlib.suppress(OSError):
                self._group(socket.IPV6_LEAVE_GROUP, address, interface)
            # Switches that look at memberships send the questions only to members.
            self._group(socket.IPV6_JOIN_GROUP, address, interface)

    def silence(self, address: str, interface: str) -> None:
        """Answer nobody any more who asks for an address at an interface."""
        key = (arp.canonical(address), interface)
        if key not in self._answered:
            return
        self._answered.discard(key)
        self._hear_questions()
        group = arp.solicited_node(address)
        if not any(
            name == interface and arp.solicited_node(other) == group for other, name in self._answered
        ):
            with contextlib.suppress(OSError):
                self._group(socket.IPV6_LEAVE_GROUP, address, interface)

    def _hear_questions(self) -> None:
        addresses = frozenset(address for address, _ in self._answered)
        self._hear(arp.ETH_P_IPV6, arp.NEIGHBOR_SOLICITATION, addresses, self._questions)

    def _group(self, change: int, address: str, interface: str) -> None:
        """Join or leave the group at which an address is asked for."""
        if self._groups is None:
            self._groups = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | SOCKET_FLAGS)
        group = socket.inet_pton(socket.AF_INET6, arp.solicited_node(address))
        membership = group + struct.pack("=I", socket.if_nametoindex(interface))
        self._groups.setsockopt(socket.IPPROTO_IPV6, change, membership)

    def _send(self, interface: str, frame: Callable[[str], bytes]) -> bool:
        mac = self._mac(interface)
        if not mac:
            return False
        data = frame(mac)
        kind = int.from_bytes(data[12 : arp.HEADER], "big")
        try:
            self._socket.sendto(data[arp.HEADER :], (interface, kind, 0, ARPHRD_ETHER, data[:6]))
        except OSError:
            return False
        return True

    def _mac(self, interface: str) -> str:
        """Empty where the interface is gone, or is none with MACs."""
        name = interface.encode()
        try:
            # Cut off, it could be another's name.
            found = (
                fcntl.ioctl(self._socket, SIOCGIFHWADDR, struct.pack("16s24x", name))
                if len(name) < 16
                else b""
            )
        except OSError:
            found = b""
        if not found:
            return ""
        kind, mac = struct.unpack_from("=H6s", found, 16)
        return mac.hex(":") if kind == ARPHRD_ETHER else ""

    def _hear(
        self, protocol: int, kind: int, addresses: frozenset[str], read: Callable[[socket.socket], None]
    ) -> None:
        """On all interfaces: so one that comes back is heard again."""
        assert self._selector is not None
        ear, filtered = self._ears.get((protocol, kind), (None, frozenset()))
        if ear is not None and not addresses:
            del self._ears[protocol, kind]
            self._selector.unregister(ear)
            ear.close()
        if not addresses or addresses == filtered:
            return
        if ear is None:
            hearing = ear = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW | SOCKET_FLAGS, socket.htons(protocol)
            )
            self._selector.register(ear, selectors.EVENT_READ, lambda: read(hearing))
            self._ears[protocol, kind] = (ear, filtered)
        # What has come before is judged again when it is read.
        attach(ear, _filter(protocol, kind, addresses))
        self._ears[protocol, kind] = (ear, addresses)

    def _claims(self, ear: socket.socket) -> None:
        for frame, interface in _frames(ear):
            claim = arp.claimed_address(frame)
            address = self._watched.get((claim[0], interface)) if claim else None
            if claim is not None and address is not None and claim[1] != self._mac(interface):
                self._heard(address, claim[1], interface)

    def _questions(self, ear: socket.socket) -> None:
        for frame, interface in _frames(ear):
            asked = arp.solicitation(frame)
            if asked is None or (asked.target, interface) not in self._answered:
                continue
            if not self._pace.take(time.monotonic_ns()):
                continue
            self._reply(asked, interface)

    def _reply(self, asked: arp.Solicitation, interface: str) -> None:
        self._send(interface, lambda mac: arp.answer(asked, mac))


def _frames(ear: socket.socket) -> Iterator[tuple[bytes, str]]:
    """Yield what has come, with the interface by which it came; what this machine itself has sent is left out."""
    for _ in range(BATCH):
        try:
            frame, sender = ear.recvfrom(MAX_FRAME_BYTES)
        except BlockingIOError:
            return
        except OSError:
            # An interface went down.
            continue
        if sender[2] != socket.PACKET_OUTGOING:
            yield frame, sender[0]


def _filter(protocol: int, kind: int, addresses: frozenset[str]) -> list[Instruction]:
    """Lets through what is about one of these addresses (of IPv6 addresses the last 32 bits count).

    ``kind``: of an ICMPv6 message.
    """
    if protocol == arp.ETH_P_ARP:
        family, tests, where = socket.AF_INET, [], arp.SENDER_AT
    else:
        family, where = socket.AF_INET6, arp.TARGET_AT + 12
        tests = [(arp.PROTOCOL_AT, arp.ICMPV6), (arp.TYPE_AT, kind)]
    values = sorted({int.from_bytes(socket.inet_pton(family, address)[-4:], "big") for address in addresses})
    if len(values) > MAX_FILTERED_ADDRESSES:
        values = []
    refuse = 2 + 2 * len(tests) + (1 + len(values) if values else 1)
    # What a VLAN has brought in that this machine is not in counts as sent to another host, broadcasts too.
    program = [(LOAD_BYTE, 0, 0, PACKET_TYPE), (JUMP_EQUAL, refuse - 2, 0, socket.PACKET_OTHERHOST)]
    for offset, value in tests:
        program.append((LOAD_BYTE, 0, 0, offset))
        program.append((JUMP_EQUAL, 0, refuse - len(program) - 1, value))
    program.append((LOAD_WORD, 0, 0, where) if values else (JUMP, 0, 0, 1))
    for value in values:
        program.append((JUMP_EQUAL, refuse - len(program), 0, value))
    return [*program, (RETURN, 0, 0, 0), (RETURN, 0, 0, MAX_FRAME_BYTES)]
