"""IP packets with TCP segments, as bytes. Pure.

See RFC 791, RFC 8200 and RFC 9293 for the headers.
"""

from __future__ import annotations

import ipaddress
import struct

IPV4 = struct.Struct("!BBHHHBBH4s4s")
IPV6 = struct.Struct("!IHBB16s16s")
TCP = struct.Struct("!HHQBBHHH")
"""Ports, sequence and acknowledgement number as one number, offset, flags, window, checksum, urgent pointer."""
ETHERTYPES = {4: 0x0800, 6: 0x86DD}
IPPROTO_TCP = 6
DONT_FRAGMENT = 0x4000


def tcp_packet(
    addresses: tuple[str, str],
    ports: tuple[int, int],
    numbers: int,
    flags: int,
    *,
    window: int,
    hops: int,
    identification: int = 0,
    padding: bytes = b"",
) -> bytes:
    """Return a packet, from the IP header on.

    ``addresses`` and ``ports``: of source and destination. ``numbers``: sequence and acknowledgement number as one.
    ``identification``: of the IPv4 header.
    """
    source, destination = map(ipaddress.ip_address, addresses)
    tcp = _segment(source.packed, destination.packed, (*ports, numbers, 5 << 4, flags, window), padding)
    if destination.version == 4:
        total = IPV4.size + len(tcp)
        fields = 0x45, 0, total, identification, DONT_FRAGMENT, hops, IPPROTO_TCP
        header = IPV4.pack(*fields, 0, source.packed, destination.packed)
        return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + tcp
    return IPV6.pack(6 << 28, len(tcp), IPPROTO_TCP, hops, source.packed, destination.packed) + tcp


def _segment(source: bytes, destination: bytes, fields: tuple[int, ...], padding: bytes) -> bytes:
    segment = TCP.pack(*fields, 0, 0) + padding
    pseudo = source + destination + struct.pack("!II", len(segment), IPPROTO_TCP)
    return segment[:16] + struct.pack("!H", checksum(pseudo + segment)) + segment[18:]


def checksum(data: bytes) -> int:
    """Return the checksum of RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
