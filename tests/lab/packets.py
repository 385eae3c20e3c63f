"""IP packets and Ethernet frames with any source address, as an attacker makes them: built as bytes, and sent raw.

The family follows from the addresses. Checksums are right, so nothing is dropped for them.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

from .namespace import Namespace

SYN = 0x02
"""TCP flags (RFC 9293, section 3.1)."""
ACK = 0x10
PSH = 0x08
LSRR, SSRR = 131, 137
"""IPv4 options: loose and strict source route (RFC 791, section 3.1)."""
_SEGMENT_ROUTING = 4
"""Type of the IPv6 routing header (RFC 8754)."""
_IPV4, _IPV6 = 0x0800, 0x86DD
_ANY_PORT = 4000


def udp(
    source: str, destination: str, port: int, payload: bytes = b"", source_port: int = _ANY_PORT
) -> bytes:
    """Return an IP packet with a UDP datagram (RFC 768)."""
    length = 8 + len(payload)
    header = struct.pack("!HHHH", source_port, port, length, 0)
    total = _transport_checksum(source, destination, socket.IPPROTO_UDP, header + payload) or 0xFFFF
    return ip(source, destination, socket.IPPROTO_UDP, header[:6] + struct.pack("!H", total) + payload)


def tcp(
    source: str,
    destination: str,
    port: int,
    flags: int = SYN,
    sequence: int = 1,
    acknowledged: int = 0,
    payload: bytes = b"",
    source_port: int = _ANY_PORT,
) -> bytes:
    """Return an IP packet with a TCP segment without options (RFC 9293, section 3.1)."""
    offset = 5 << 4
    header = struct.pack("!HHIIBBHHH", source_port, port, sequence, acknowledged, offset, flags, 65535, 0, 0)
    total = _transport_checksum(source, destination, socket.IPPROTO_TCP, header + payload)
    return ip(
        source,
        destination,
        socket.IPPROTO_TCP,
        header[:16] + struct.pack("!H", total) + header[18:] + payload,
    )


def ip(source: str, destination: str, protocol: int, body: bytes) -> bytes:
    """Return an IPv4 packet (RFC 791) or an IPv6 packet (RFC 8200) with this transport ``body``."""
    addresses = ip_address(source).packed + ip_address(destination).packed
    if ip_address(source).version == 6:
        return struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + addresses + body
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0) + addresses
    return header[:10] + struct.pack("!H", _checksum(header)) + header[12:] + body


def source_routed(packet: bytes, first: str, option: int = LSRR) -> bytes:
    """Return ``packet`` with a source route: by the router ``first`` to its own destination.

    IPv4 packets get the option LSRR, IPv6 packets a segment routing header.
    """
    router = ip_address(first).packed
    if packet[0] >> 4 == 6:
        last, body = packet[24:40], packet[40:]
        route = struct.pack("!BBBBBBH", packet[6], 4, _SEGMENT_ROUTING, 1, 1, 0, 0) + last + router
        length = struct.pack("!HB", len(route) + len(body), socket.IPPROTO_ROUTING)
        return packet[:4] + length + packet[7:24] + router + route + body
    last, body = packet[16:20], packet[20:]
    options = struct.pack("!BBB", option, 7, 4) + last + b"\0"
    size = 20 + len(options)
    start = struct.pack("!BBH", 0x40 | size // 4, 0, size + len(body))
    header = start + packet[4:10] + b"\0\0" + packet[12:16] + router + options
    return header[:10] + struct.pack("!H", _checksum(header)) + header[12:] + body


def with_options(packet: bytes) -> bytes:
    """Return ``packet`` with options between the IP header and the transport header that mean nothing.

    IPv4 packets get the option NOP, IPv6 packets a destination options header (RFC 8200, section 4.6).
    """
    if packet[0] >> 4 == 6:
        options, body = struct.pack("!BBBBI", packet[6], 0, 1, 4, 0), packet[40:]
        length = struct.pack("!HB", len(options) + len(body), socket.IPPROTO_DSTOPTS)
        return packet[:4] + length + packet[7:40] + options + body
    options, body = b"\1\1\1\0", packet[20:]
    start = struct.pack("!BBH", 0x46, 0, 24 + len(body))
    header = start + packet[4:10] + b"\0\0" + packet[12:20] + options
    return header[:10] + struct.pack("!H", _checksum(header)) + header[12:] + body


def frame(destination_mac: str, source_mac: str, packet: bytes) -> bytes:
    """Return an Ethernet frame around an IP packet. MACs are written as ``02:00:00:00:00:01``."""
    kind = _IPV6 if packet[0] >> 4 == 6 else _IPV4
    return bytes.fromhex((destination_mac + source_mac).replace(":", "")) + struct.pack("!H", kind) + packet


def send(machine: Namespace, packet: bytes, mark: int = 0, priority: int = 0) -> None:
    """Send an IP packet with its header through a raw socket, with this mark and priority.

    The machine's own routes apply.
    """
    if packet[0] >> 4 == 6:
        family, destination = socket.AF_INET6, str(IPv6Address(packet[24:40]))
    else:
        family, destination = socket.AF_INET, str(IPv4Address(packet[16:20]))
    with machine.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, priority)
        sock.sendto(packet, (destination, 0))


def send_frame(machine: Namespace, interface: str, destination_mac: str, packet: bytes) -> None:
    """Send an IP packet by ``interface`` to the station with this MAC, past the machine's routes (a packet socket)."""
    with machine.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        machine.inside(lambda: sock.bind((interface, 0)))
        sock.send(frame(destination_mac, sock.getsockname()[4].hex(":"), packet))


def mac_of(machine: Namespace, interface: str) -> str:
    """Return the MAC of an interface of the machine."""
    with machine.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        machine.inside(lambda: sock.bind((interface, 0)))
        return str(sock.getsockname()[4].hex(":"))


def _transport_checksum(source: str, destination: str, protocol: int, body: bytes) -> int:
    """Return the checksum over the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1) and ``body``."""
    addresses = ip_address(source).packed + ip_address(destination).packed
    return _checksum(addresses + struct.pack("!II", len(body), protocol) + body)


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
