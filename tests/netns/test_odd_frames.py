"""Frames of selected pods that are made as no program makes them: by the gateway, or not at all."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.lab.packets import ACK, SYN, ip, tcp, udp, with_options

from .datapath_lab import SERVICE, SERVICE6, SOURCES, Lab, Pod, v6
from .datapath_traffic import PORT
from .test_forged_sources import G1, SELECTED, gateway_mac, sources_outside
from .test_other_protocols import fragments

IPV4, IPV6 = 0x0800, 0x86DD
VLAN, SERVICE_VLAN, PPPOE = 0x8100, 0x88A8, 0x8864
HOP_BY_HOP, ROUTING, FRAGMENT = 0, 43, 44
BROADCAST = "ff:ff:ff:ff:ff:ff"
ODD_SOURCES = ("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1")
ODD_SOURCES6 = ("::", "::1", "ff02::1", "fe80::2", "::ffff:10.244.0.10", "::10.244.0.10", "64:ff9b::a00:b")
BRIDGE_SETTINGS = [dict(zip(("call-iptables", "filter-vlan-tagged", "pass-vlan-input-dev"), values, strict=True))
                   for values in itertools.product("01", repeat=3)]  # fmt: skip


def before_transport(packet: bytes, kind: int, body: bytes) -> bytes:
    """Return an IPv6 packet with one more extension header. ``body``: the header after its first byte."""
    header = bytes([packet[6]]) + body
    length = struct.pack("!HB", len(packet) - 40 + len(header), kind)
    return packet[:4] + length + packet[7:40] + header + packet[40:]


def parts6(packet: bytes, size: int = 16) -> Iterator[bytes]:
    """Yield the fragments of an IPv6 packet (RFC 8200, section 4.5), the last one first."""
    body = packet[40:]
    for first in reversed(range(0, len(body), size)):
        field = first | (first + size < len(body))
        part = struct.pack("!BBHI", packet[6], 0, field, 7) + body[first : first + size]
        yield packet[:4] + struct.pack("!HB", len(part), FRAGMENT) + packet[7:40] + part


def packets(pod: Pod) -> Iterator[bytes]:
    """Yield IP packets to the service's port, each odd in another respect."""
    own, own6 = pod.address, v6(pod.address)
    plain, plain6 = udp(own, SERVICE, PORT), udp(own6, SERVICE6, PORT)
    for packet in (plain, plain6):
        yield packet
        yield with_options(packet)
    yield from reversed(fragments(udp(own, SERVICE, PORT, bytes(60))))
    yield from parts6(udp(own6, SERVICE6, PORT, bytes(60)))
    # An atomic fragment (RFC 6946), options for each hop, routing headers of types 0 and 2, and all of it at once.
    atomic, options = struct.pack("!BHI", 0, 0, 9), bytes([0, 1, 4, 0, 0, 0, 0])
    routes = [
        bytes([2, kind, 0, 0, 0, 0, 0]) + socket.inet_pton(socket.AF_INET6, SERVICE6) for kind in (0, 2)
    ]
    headers = [(FRAGMENT, atomic), (HOP_BY_HOP, options), *((ROUTING, route) for route in routes)]
    for kind, body in headers:
        yield before_transport(plain6, kind, body)
    nested = plain6
    for kind, body in headers:
        nested = before_transport(nested, kind, body)
    yield nested
    yield from (udp(source, SERVICE, PORT) for source in ODD_SOURCES)
    yield from (udp(source, SERVICE6, PORT) for source in ODD_SOURCES6)
    # Both ends open: the server's question comes to the gateway alone.
    yield tcp(own, SERVICE, PORT, flags=SYN)
    yield tcp(own, SERVICE, PORT, flags=SYN | ACK, acknowledged=2)
    yield tcp(own, SERVICE, PORT, flags=ACK, acknowledged=2, sequence=2)
    yield from (udp(own, to, PORT) for to in ("255.255.255.255", "203.0.113.15", "224.0.0.1", "239.1.1.1"))
    yield ip(own, SERVICE, socket.IPPROTO_UDP, struct.pack("!HHHH", 4000, PORT, 0, 0))


def ethernet(pod: Pod, packet: bytes) -> Iterator[bytes]:
    """Yield the packet in frames with and without tags, to the node and to everybody."""
    kind = IPV6 if packet[0] >> 4 == 6 else IPV4
    tags = (
        b"",
        struct.pack("!HH", VLAN, 0),
        struct.pack("!HH", VLAN, 5),
        struct.pack("!HHHH", VLAN, 0, VLAN, 0),
        struct.pack("!HHHH", SERVICE_VLAN, 0, VLAN, 0),
        struct.pack("!HHHH", SERVICE_VLAN, 7, VLAN, 5),
    )
    own = pod.machine.run("cat", "/sys/class/net/eth0/address").strip()
    for to, tag in itertools.product((gateway_mac(pod), BROADCAST, "01:00:5e:00:00:01"), tags):
        addresses = bytes.fromhex((to + own).replace(":", ""))
        yield addresses + tag + struct.pack("!H", kind) + packet
    session = struct.pack("!BBHHH", 0x11, 0, 1, len(packet) + 2, 0x57 if kind == IPV6 else 0x21)
    yield (
        bytes.fromhex((gateway_mac(pod) + own).replace(":", "")) + struct.pack("!H", PPPOE) + session + packet
    )


def send_all(pod: Pod) -> None:
    with pod.machine.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        pod.machine.inside(lambda: sock.bind(("eth0", 0)))
        for packet in packets(pod):
            for each in ethernet(pod, packet):
                sock.send(each)


@pytest.mark.parametrize("pod", SELECTED)
def test_no_odd_frame_leads_past_the_gateway(lab: Lab, pod: str) -> None:
    """With each way in which a bridge shows its frames to the hooks of IP, if there is a bridge."""
    client = lab.pods[pod]
    node = client.node.machine
    try:
        for settings in BRIDGE_SETTINGS[-1:] if client.routed else BRIDGE_SETTINGS:
            node.sysctl({f"net/bridge/bridge-nf-{name}": value for name, value in settings.items()})
            node.run("conntrack", "-F")
            assert sources_outside(lab, lambda: send_all(client)) == {G1}, settings
        # The packets are well made: without the tag they leave by the node's own address.
        client.tag(0)
        node.run("conntrack", "-F")
        own = SOURCES.get(client.node.name, client.node.address)
        assert own in sources_outside(lab, lambda: send_all(client))
    finally:
        node.sysctl({f"net/bridge/bridge-nf-{name}": "0" for name in BRIDGE_SETTINGS[0]})
        node.sysctl({"net/bridge/bridge-nf-call-iptables": "1"})
