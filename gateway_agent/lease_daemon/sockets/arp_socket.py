"""Announce the owner of a virtual address to the network, and receive the claims of other machines.

The kernel answers ARP requests for an IPv4 address. The kernel would answer solicitations for an IPv6 address only if
the address were on the interface, where programs would take it for the node's: so this module answers them.

:mod:`gateway_agent.lease.virtual_ips.arp` builds and parses the frames, which pass the fence like any others.
"""

from __future__ import annotations

import contextlib
import fcntl
import selectors
import socket
import struct
from collections.abc import Callable, Iterable

from ...lease.virtual_ips import arp
from ...lease.voting.protocol import NEVER
from .packet_receiver import PacketReceiver

# linux/sockios.h, linux/if_arp.h, linux/pkt_sched.h
SIOCGIFHWADDR = 0x8927
ARPHRD_ETHER = 1
TC_PRIO_CONTROL = 7
CLAIMS4 = (arp.ETH_P_ARP, 0)
CLAIMS6 = (arp.ETH_P_IPV6, arp.NEIGHBOR_ADVERTISEMENT)
SOLICITATIONS = (arp.ETH_P_IPV6, arp.NEIGHBOR_SOLICITATION)
SOCKET_FLAGS = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK


class Announcer:
    """Sender of ARP and neighbour discovery frames, and receiver after :meth:`listen`.

    Raises OSError if packet sockets are not available; an interface that is gone or down is no error.
    """

    def __init__(self) -> None:
        # Protocol 0 receives nothing. The kernel writes the Ethernet header, whose length depends on the device.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | SOCKET_FLAGS, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, TC_PRIO_CONTROL)
        self._on_claim: Callable[[str, str, str], None] = lambda address, mac, interface: None
        self._watched: dict[tuple[str, str], str] = {}
        """The address as configured, by (canonical address, interface)."""
        self._answered: set[tuple[str, str]] = set()
        """(canonical IPv6 address, interface) of each address that is answered."""
        self._groups: socket.socket | None = None
        self._receivers: dict[tuple[int, int], PacketReceiver] = {}
        """Receivers by (protocol, type of the ICMPv6 message)."""

    def close(self) -> None:
        """Leave all groups, and close the sockets."""
        self.watch(())
        for address, interface in tuple(self._answered):
            self.silence(address, interface)
        if self._groups is not None:
            self._groups.close()
        self._socket.close()

    def announce(self, address: str, interface: str) -> bool:
        """Announce once that ``address`` is at this interface. Return False if that was not possible."""
        frame = arp.advertisement if ":" in address else arp.gratuitous
        return self._send(interface, lambda mac: frame(address, mac))

    def probe(self, address: str, interface: str) -> bool:
        """Probe once for the owner of ``address``. Return False if the probe was not sent."""
        return self._send(interface, lambda mac: arp.probe(address, mac))

    def is_asked(self, interface: str) -> bool:
        """Return False for an interface without MACs: its link has no address resolution."""
        kind, _ = self._hardware(interface)
        return kind in (0, ARPHRD_ETHER)

    def listen(self, selector: selectors.BaseSelector, on_claim: Callable[[str, str, str], None]) -> None:
        """Start to receive, by callbacks that are registered as data with the selector.

        ``on_claim(address, mac, interface)`` is called for each frame in which another MAC claims a watched address.
        """
        self._on_claim = on_claim
        reads = {CLAIMS4: self._claim, CLAIMS6: self._claim, SOLICITATIONS: self._solicitation}
        self._receivers = {key: PacketReceiver(selector, *key, read) for key, read in reads.items()}

    def next_wake(self) -> int:
        """Return when :meth:`resume` is due, as ``CLOCK_BOOTTIME`` in nanoseconds."""
        return min((receiver.next_wake() for receiver in self._receivers.values()), default=NEVER)

    def resume(self, now: int) -> None:
        """Receive muted frames again, and announce the addresses that the flood has solicited.

        The announcement answers each machine whose solicitation was dropped: a neighbour entry that is incomplete takes
        an unsolicited advertisement (RFC 4861, section 7.2.5). Raises OSError.
        """
        muted = {key: receiver.resume(now) for key, receiver in self._receivers.items()}
        if asked_for := muted.get(SOLICITATIONS):
            for address, interface in self._answered:
                if arp.filtered_part_of(address) in asked_for:
                    self.announce(address, interface)

    def watch(self, targets: Iterable[tuple[str, str]]) -> None:
        """Listen, from now on, for claims to these pairs of address and interface. Raises OSError.

        Without :meth:`listen` before, it does nothing.
        """
        if not self._receivers:
            return
        self._watched = {(arp.canonical(address), interface): address for address, interface in targets}
        addresses = {address for address, _ in self._watched}
        self._receivers[CLAIMS4].set_addresses(frozenset(a for a in addresses if ":" not in a))
        self._receivers[CLAIMS6].set_addresses(frozenset(a for a in addresses if ":" in a))

    def answer(self, address: str, interface: str) -> None:
        """Answer, from now on, solicitations for an IPv6 address at an interface. Needs :meth:`listen` before.

        A repetition is valid, for example after the interface was gone. Raises OSError.
        """
        if ":" in address and self._receivers:
            self._answered.add((arp.canonical(address), interface))
            self._follow_answered()
            with contextlib.suppress(OSError):
                self._group(socket.IPV6_LEAVE_GROUP, address, interface)
            # Switches with MLD snooping send solicitations only to members of the group.
            self._group(socket.IPV6_JOIN_GROUP, address, interface)

    def silence(self, address: str, interface: str) -> None:
        """Stop answering solicitations for an address at an interface."""
        key = (arp.canonical(address), interface)
        if key not in self._answered:
            return
        self._answered.discard(key)
        self._follow_answered()
        group = arp.solicited_node(address)
        if not any(
            name == interface and arp.solicited_node(other) == group for other, name in self._answered
        ):
            with contextlib.suppress(OSError):
                self._group(socket.IPV6_LEAVE_GROUP, address, interface)

    def _follow_answered(self) -> None:
        self._receivers[SOLICITATIONS].set_addresses(frozenset(address for address, _ in self._answered))

    def _group(self, change: int, address: str, interface: str) -> None:
        """Join or leave the solicited-node group of an address."""
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
        """Return the interface's MAC; empty if the interface is gone or has no MAC."""
        kind, mac = self._hardware(interface)
        return mac.hex(":") if kind == ARPHRD_ETHER else ""

    def _hardware(self, interface: str) -> tuple[int, bytes]:
        """Return an interface's type and address; type 0 if the interface is gone."""
        name = interface.encode()
        try:
            # A truncated name could be that of another interface.
            found = (
                fcntl.ioctl(self._socket, SIOCGIFHWADDR, struct.pack("16s24x", name))
                if len(name) < 16
                else b""
            )
        except OSError:
            found = b""
        kind, mac = struct.unpack_from("=H6s", found, 16) if found else (0, b"")
        return kind, mac

    def _claim(self, frame: bytes, interface: str) -> None:
        claim = arp.claimed_address(frame)
        address = self._watched.get((claim[0], interface)) if claim else None
        if claim is not None and address is not None and claim[1] != self._mac(interface):
            self._on_claim(address, claim[1], interface)

    def _solicitation(self, frame: bytes, interface: str) -> None:
        asked = arp.solicitation(frame)
        if asked is not None and (asked.target, interface) in self._answered:
            self._send(interface, lambda mac: arp.answer(asked, mac))
