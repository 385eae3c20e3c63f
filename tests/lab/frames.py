"""Ethernet frames of the lab's witnesses as bytes: built and read, never sent here."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address

MULTICAST = "224.0.0.77"
"""Link-local multicast address: every bridge floods it, snooping or not (RFC 4541, 2.1.2), and no machine of a lab
listens to it.
"""
PORT = 9009
"""UDP port of the observers' frames."""
ASKER = bytes.fromhex("02e0ff000001")
"""Sender MAC that no machine has: an answer to it reaches no kernel's neighbour table."""
ETHERNET = 14
_IPV4 = 0x0800
_ARP = 0x0806
_REQUEST = 1
_REPLY = 2
_BROADCAST = b"\xff" * 6
FLOODED = bytes.fromhex("01005e00004d")
_NAME = 32
"""Bytes of a frame that are for its sender's name."""


def probe(mac: bytes, address: str, name: str) -> bytes:
    """Return an IPv4 datagram from ``address``; the four bytes of a counter may be put behind it.

    The counter is within all lengths, and the UDP checksum is 0 (none): so each frame costs a concatenation.
    """
    text = name.encode()[:_NAME].ljust(_NAME)
    datagram = struct.pack("!HHHH", PORT, PORT, 8 + len(text) + 4, 0) + text
    source, destination = IPv4Address(address).packed, IPv4Address(MULTICAST).packed
    length = 20 + len(datagram) + 4
    header = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0, 1, socket.IPPROTO_UDP, 0) + source + destination
    header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
    return FLOODED + mac + struct.pack("!H", _IPV4) + header + datagram


def claim(mac: bytes, address: str) -> bytes:
    """Return an ARP reply by which ``mac`` claims ``address``.

    Its target is a multicast address: Linux frees such a packet before it looks at its sender
    (``arp_process``), so no neighbour table changes.
    """
    return _arp(_REPLY, FLOODED, mac, address, FLOODED, MULTICAST)


def announcement(mac: bytes, address: str) -> bytes:
    """Return a gratuitous ARP request (RFC 5227, 3): everybody on the LAN believes it."""
    return _arp(_REQUEST, _BROADCAST, mac, address, bytes(6), address)


def question(address: str) -> bytes:
    """Who has ``address``? An ARP probe (RFC 5227): without a sender's address it teaches nobody anything."""
    return _arp(_REQUEST, _BROADCAST, ASKER, "0.0.0.0", bytes(6), address)


def answer(frame: bytes) -> tuple[str, str] | None:
    """Address and MAC in an answer to :func:`question`; None for any other frame."""
    if len(frame) < ETHERNET + 28 or frame[:6] != ASKER or frame[12:14] != _ARP.to_bytes(2, "big"):
        return None
    if int.from_bytes(frame[20:22], "big") != _REPLY:
        return None
    return str(IPv4Address(frame[28:32])), frame[22:28].hex(":")


def speaker(frame: bytes) -> tuple[str, str] | None:
    """Return the IPv4 address in whose name a frame speaks, and what it is; None if it is neither IPv4 nor ARP.

    ``probe`` and ``claim`` are an observer's, ``traffic`` and ``arp`` anybody's.
    """
    kind = int.from_bytes(frame[12:14], "big")
    if kind == _IPV4 and len(frame) >= ETHERNET + 24:
        observer = frame[23] == socket.IPPROTO_UDP and frame[36:38] == PORT.to_bytes(2, "big")
        return str(IPv4Address(frame[26:30])), "probe" if observer else "traffic"
    if kind == _ARP and len(frame) >= ETHERNET + 28:
        observer = frame[38:42] == IPv4Address(MULTICAST).packed
        return str(IPv4Address(frame[28:32])), "claim" if observer else "arp"
    return None


def _arp(operation: int, to: bytes, mac: bytes, sender: str, target_mac: bytes, target: str) -> bytes:
    """RFC 826."""
    fixed = struct.pack("!HHBBH", 1, _IPV4, 6, 4, operation)
    body = fixed + mac + IPv4Address(sender).packed + target_mac + IPv4Address(target).packed
    return to + mac + struct.pack("!H", _ARP) + body


def _checksum(header: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
