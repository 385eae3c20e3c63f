"""VXLAN packets made by hand, and each kind of socket by which a process of a node may try to send them.

A packet here is a whole outer IP packet as :func:`packet` returns it. A sender takes the machine, the packet and the
MAC of the machine to which it goes; whether the kernel has refused the packet or dropped it later is not reported.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from ipaddress import ip_address

from cni.kernel import ids

from .local_user import as_local_user
from .namespace import Namespace
from .packets import frame, send, udp, with_options

PORT = 4799
"""The default of ``tunnel.port``."""
TUNNEL_PRIORITY = ids.ENCAPSULATED
"""The packet priority of the kernel's own encapsulation. A process needs rights to give it to a packet."""
UPLINK = "eth0"
_UDP, _VXLAN, _ETHERNET = 8, 8, 14
"""Lengths of headers in bytes (RFC 768; RFC 7348, section 5)."""
_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20
"""linux/socket.h, linux/if_packet.h."""

Sender = Callable[[Namespace, bytes, str], None]


def packet(source: str, destination: str, vni: int, inner: bytes, outer: str = "") -> bytes:
    """Return what a tunnel between the nodes with these addresses would carry (RFC 7348, section 5).

    ``outer``: the outer source address, if it is not the node's.
    """
    return udp(outer or source, destination, PORT, payload(source, destination, vni, inner))


def payload(source: str, destination: str, vni: int, inner: bytes) -> bytes:
    """Return the same without the outer IP and UDP headers, as a UDP socket sends it."""
    return struct.pack("!II", 0x08000000, vni << 8) + frame(
        ids.node_mac(destination), ids.node_mac(source), inner
    )


def payload_of(packet: bytes) -> bytes:
    """Return what is behind the outer IP and UDP headers."""
    return packet[_ip_header(packet) + _UDP :]


def by_local_user(machine: Namespace, packet: bytes, mac: str) -> None:
    """Send the payload by an ordinary UDP socket of a user without rights."""
    as_local_user(machine, lambda: _send_payload(packet))


def by_socket(machine: Namespace, packet: bytes, mac: str) -> None:
    """Send the payload by a UDP socket that has the priority of the kernel's own packets."""
    machine.inside(lambda: _send_payload(packet, TUNNEL_PRIORITY))


def raw(machine: Namespace, packet: bytes, mac: str) -> None:
    with contextlib.suppress(PermissionError):
        send(machine, packet, priority=TUNNEL_PRIORITY)


def by_frame(machine: Namespace, packet: bytes, mac: str) -> None:
    """Send a frame by the uplink: no hook of an IP family sees it."""
    _send_frame(machine, UPLINK, mac, packet)


def by_frame_with_options(machine: Namespace, packet: bytes, mac: str) -> None:
    """Send a frame whose UDP header is not where it is in most."""
    _send_frame(machine, UPLINK, mac, with_options(packet))


def by_frame_past_the_queue(machine: Namespace, packet: bytes, mac: str) -> None:
    _send_frame(machine, UPLINK, mac, packet, (_PACKET_QDISC_BYPASS, 1))


def into_the_device(machine: Namespace, packet: bytes, mac: str) -> None:
    """Have the kernel encapsulate the inner frame: a tunnel device of the machine has this VNI."""
    content = payload_of(packet)
    vni = int.from_bytes(content[4:7])
    inner = content[_VXLAN : _VXLAN + 6].hex(":")
    _send_frame(machine, ids.device(vni), inner, content[_VXLAN + _ETHERNET :])


PROCESS: tuple[Sender, ...] = (by_socket, raw, by_frame, by_frame_with_options, by_frame_past_the_queue)
"""Senders for which a process needs raw rights, as a pod in the network of its node may have."""


def _ip_header(packet: bytes) -> int:
    return 40 if packet[0] >> 4 == 6 else 20


def _send_payload(packet: bytes, priority: int = 0) -> None:
    version, end = packet[0] >> 4, _ip_header(packet)
    destination = packet[end - 16 : end] if version == 6 else packet[end - 4 : end]
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock, contextlib.suppress(PermissionError):
        if priority:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, priority)
        sock.sendto(payload_of(packet), (str(ip_address(destination)), PORT))


def _send_frame(
    machine: Namespace, device: str, mac: str, packet: bytes, option: tuple[int, int] | None = None
) -> None:
    with machine.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        machine.inside(lambda: sock.bind((device, 0)))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, TUNNEL_PRIORITY)
        if option:
            sock.setsockopt(_SOL_PACKET, *option)
        # A frame that the kernel drops counts as sent, or as a queue that is full.
        with contextlib.suppress(OSError):
            sock.send(frame(mac, sock.getsockname()[4].hex(":"), packet))
