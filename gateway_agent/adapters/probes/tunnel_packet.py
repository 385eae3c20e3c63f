"""A TCP packet as a worker would send it through a tunnel, as bytes. Pure.

See RFC 7348 (VXLAN), RFC 791, RFC 8200 and RFC 9293 for the headers.
"""

from __future__ import annotations

import ipaddress
import struct

from cni.kernel import ids

from ...policy.egress_node.path_faults import TunnelProbe

VXLAN = struct.Struct("!II")
ONLY_VNI = 0x08000000
ETHERNET = struct.Struct("!6s6sH")
ETHERTYPES = {4: 0x0800, 6: 0x86DD}
IPV4 = struct.Struct("!BBHHHBBH4s4s")
IPV6 = struct.Struct("!IHBB16s16s")
TCP = struct.Struct("!HHQBBHHH")
"""Ports, both numbers as one, offset, flags, window, checksum, urgent pointer."""
IPPROTO_TCP = 6
DONT_FRAGMENT = 0x4000
HOPS = 2
"""So that a probe gets no further than the next hop if another program has just flushed the rules that drop it."""
SYN = 0x02
PORTS = 49152, 443
"""The most frequent service, so that rules of other programs take the packet for what it stands for."""
WINDOW_AT = 14
"""Bytes from the TCP header."""
SENDER = bytes.fromhex("0200000000e9")
"""MAC of nobody. The kernel drops what has the MAC of the receiving device itself."""


def encapsulated(probe: TunnelProbe, node_address: str, number: int) -> bytes:
    """Return the payload of the UDP datagram to the tunnel port of the node with this address.

    ``number``: 16 bits that are in the packet when it arrives, see :func:`number_in`. Neither NAT nor routing changes
    the window.
    """
    mac = bytes.fromhex(ids.node_mac(node_address).replace(":", ""))
    source, destination = map(ipaddress.ip_address, (probe.source, probe.destination))
    family = destination.version
    padding = bytes(max(0, probe.bytes - TCP.size - (IPV4 if family == 4 else IPV6).size))
    tcp = _tcp(source.packed, destination.packed, number, padding)
    if family == 4:
        total, addresses = IPV4.size + len(tcp), (source.packed, destination.packed)
        header = IPV4.pack(0x45, 0, total, number, DONT_FRAGMENT, HOPS, IPPROTO_TCP, 0, *addresses)
        header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
    else:
        header = IPV6.pack(6 << 28, len(tcp), IPPROTO_TCP, HOPS, source.packed, destination.packed)
    return (
        VXLAN.pack(ONLY_VNI, probe.vni << 8) + ETHERNET.pack(mac, SENDER, ETHERTYPES[family]) + header + tcp
    )


def number_in(packet: bytes) -> int:
    """Return the number of a probe. ``packet``: from the IP header on. Returns -1 if the packet is too short."""
    at = (IPV4 if packet[:1] < b"\x60" else IPV6).size + WINDOW_AT
    return int.from_bytes(packet[at : at + 2], "big") if len(packet) >= at + 2 else -1


def _tcp(source: bytes, destination: bytes, number: int, padding: bytes) -> bytes:
    segment = TCP.pack(*PORTS, ids.PROBE_NUMBERS, 5 << 4, SYN, number, 0, 0) + padding
    pseudo = source + destination + struct.pack("!II", len(segment), IPPROTO_TCP)
    checksum = _checksum(pseudo + segment)
    return segment[:16] + struct.pack("!H", checksum) + segment[18:]


def _checksum(data: bytes) -> int:
    """Return the checksum of RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
