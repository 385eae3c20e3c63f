"""Build a TCP packet as a worker would send it through a tunnel. Pure.

See RFC 7348 (VXLAN) for the headers around :mod:`.ip_packet`.
"""

from __future__ import annotations

import struct

from cni.kernel import ids

from ...policy.egress_node.path_faults import TunnelProbe
from .ip_packet import ETHERTYPES, IPV4, IPV6, TCP, tcp_packet

VXLAN = struct.Struct("!II")
ONLY_VNI = 0x08000000
ETHERNET = struct.Struct("!6s6sH")
HOPS = 2
"""Hop limit, so that a probe ends at the next hop even if another program has just flushed the rules that drop it."""
SYN = 0x02
PORTS = 49152, 443
"""The most frequent service, so that rules of other programs treat the packet as they treat those of pods."""
WINDOW_AT = 14
"""Bytes from the TCP header."""
SENDER = bytes.fromhex("0200000000e9")
"""MAC of no machine. The kernel drops frames with the MAC of the receiving device as source."""


def encapsulated(probe: TunnelProbe, node_address: str, number: int) -> bytes:
    """Return the payload of the UDP datagram to the tunnel port of the node with this address.

    ``number``: 16 bits that the packet carries, see :func:`number_in`. Neither NAT nor routing changes
    the window.
    """
    mac = bytes.fromhex(ids.node_mac(node_address).replace(":", ""))
    family = 6 if ":" in probe.destination else 4
    packet = tcp_packet(
        (probe.source, probe.destination),
        PORTS,
        ids.PROBE_NUMBERS,
        SYN,
        window=number,
        hops=HOPS,
        identification=number,
        padding=bytes(max(0, probe.bytes - TCP.size - (IPV4 if family == 4 else IPV6).size)),
    )
    return VXLAN.pack(ONLY_VNI, probe.vni << 8) + ETHERNET.pack(mac, SENDER, ETHERTYPES[family]) + packet


def number_in(packet: bytes) -> int:
    """Return the number of a probe. ``packet``: from the IP header on. Returns -1 if the packet is too short."""
    at = (IPV4 if packet[:1] < b"\x60" else IPV6).size + WINDOW_AT
    return int.from_bytes(packet[at : at + 2], "big") if len(packet) >= at + 2 else -1
