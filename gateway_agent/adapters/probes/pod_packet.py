"""Build and parse the frames of a simulated pod: the packet that opens a connection, and the answers. Pure.

See RFC 792 and RFC 4443 for ICMP errors, which carry the beginning of the packet that they are about.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from cni.kernel.netlink.veths import MAC

from ...policy.egress_node.pod_probes import Answer, PodProbe
from .ip_packet import ETHERTYPES, IPPROTO_TCP, tcp_packet

ETHERNET = struct.Struct("!6s6sH")
PORTS = struct.Struct("!HH")
SYN, RST, ACK = 0x02, 0x04, 0x10
FLAGS_AT, ACKNOWLEDGED_AT = 13, 8
ICMP = {4: 1, 6: 58}
ERRORS = {(4, 3): Answer.UNREACHABLE, (4, 11): Answer.EXPIRED,
          (6, 1): Answer.UNREACHABLE, (6, 3): Answer.EXPIRED}  # fmt: skip
"""Meanings of ICMP types, by IP version."""
SEQUENCE = 0x65677774
WINDOW = 0xFFFF


class Received(NamedTuple):
    """A frame that answers a probe."""

    port: int
    """The probe's source port."""
    answer: Answer
    sender: str
    acknowledged: int = 0
    """Number that the answer acknowledges."""


def opening(probe: PodProbe, source: str, port: int, router: bytes) -> bytes:
    """Return the frame of a probe. ``router``: MAC of the node's end of the pod's veth."""
    packet = tcp_packet(
        (source, probe.destination),
        (port, probe.port),
        SEQUENCE << 32,
        SYN,
        window=WINDOW,
        hops=probe.hops,
    )
    return _frame(probe, router, packet)


def closing(probe: PodProbe, source: str, port: int, router: bytes, acknowledged: int) -> bytes:
    """Return the frame that resets a connection which the destination has accepted."""
    packet = tcp_packet(
        (source, probe.destination),
        (port, probe.port),
        acknowledged << 32,
        RST,
        window=0,
        hops=probe.hops,
    )
    return _frame(probe, router, packet)


def _frame(probe: PodProbe, router: bytes, packet: bytes) -> bytes:
    return ETHERNET.pack(router, MAC, ETHERTYPES[6 if ":" in probe.destination else 4]) + packet


def received(frame: bytes) -> Received | None:
    """Return the answer in a frame; None if it is no answer to a probe."""
    packet = frame[ETHERNET.size :]
    version, protocol, source, body = _ip(packet)
    try:
        if protocol == IPPROTO_TCP:
            return _of_tcp(source, body)
        meaning = ERRORS.get((version, body[0])) if protocol == ICMP.get(version) else None
        if meaning is None:
            return None
        _, inner, _, about = _ip(body[8:])
        return Received(PORTS.unpack_from(about)[0], meaning, source) if inner == IPPROTO_TCP else None
    except (struct.error, LookupError):
        return None


def _of_tcp(source: str, segment: bytes) -> Received | None:
    port, flags = PORTS.unpack_from(segment)[1], segment[FLAGS_AT]
    if flags & RST:
        return Received(port, Answer.REFUSED, source)
    if flags & (SYN | ACK) == SYN | ACK:
        acknowledged = int.from_bytes(segment[ACKNOWLEDGED_AT : ACKNOWLEDGED_AT + 4], "big")
        return Received(port, Answer.ACCEPTED, source, acknowledged)
    return None


def _ip(packet: bytes) -> tuple[int, int, str, bytes]:
    """Return version, protocol, source and content of a packet; zeros and empty texts if it is none."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        size = (packet[0] & 15) * 4
        return 4, packet[9], socket.inet_ntop(socket.AF_INET, packet[12:16]), packet[size:]
    if version == 6 and len(packet) >= 40:
        return 6, packet[6], socket.inet_ntop(socket.AF_INET6, packet[8:24]), packet[40:]
    return 0, 0, "", b""
