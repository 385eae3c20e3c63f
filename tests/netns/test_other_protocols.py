"""Packets of selected pods that are no TCP segment and no whole UDP datagram: by the gateway, or not at all."""

from __future__ import annotations

import socket
import struct

import pytest

from tests.lab.packets import ip, send, udp
from tests.lab.waiting import until

from .datapath_lab import SERVICE, SERVICE6, SOURCES, Lab, Pod, v6
from .datapath_traffic import PORT
from .test_forged_sources import G1, SELECTED, forge, gateway_mac, sources_outside

SCTP, ICMP, EXPERIMENT, LAST_PROTOCOL = 132, 1, 253, 254
MORE_FRAGMENTS = 0x2000
PRIORITY_TAG = struct.pack("!HH", 0x8100, 5 << 13)
"""An 802.1Q tag without a VLAN, which a receiver takes off."""


def icmp_error(source: str, destination: str, cited: bytes) -> bytes:
    """Return "port unreachable" (RFC 792) for a packet that the destination is said to have sent."""
    body = struct.pack("!BBHI", 3, 3, 0, 0) + cited[:28]
    total = sum(struct.unpack(f"!{len(body) // 2}H", body))
    total = (total & 0xFFFF) + (total >> 16)
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return ip(source, destination, ICMP, body[:2] + struct.pack("!H", total) + body[4:])


def fragments(packet: bytes, size: int = 16) -> list[bytes]:
    """Return an IPv4 packet in fragments of ``size`` bytes (a multiple of 8)."""
    header, body = packet[:20], packet[20:]
    found = []
    for first in range(0, len(body), size):
        part = body[first : first + size]
        flags = first // 8 | (MORE_FRAGMENTS if first + size < len(body) else 0)
        source, destination = (socket.inet_ntoa(header[at : at + 4]) for at in (12, 16))
        made = bytearray(ip(source, destination, header[9], part))
        made[6:8], made[10:12] = struct.pack("!H", flags), bytes(2)
        total = sum(struct.unpack("!10H", made[:20]))
        total = (total & 0xFFFF) + (total >> 16)
        made[10:12] = struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)
        found.append(bytes(made))
    return found


def arrived_of(lab: Lab, pod: Pod, protocol: int, packet: bytes) -> set[str]:
    """Return the sources of what arrived outside of this protocol while a pod sent a packet three times."""
    with lab.witness() as witness:
        for _ in range(3):
            forge(pod, packet)
        for name, node in lab.nodes.items():
            # Nobody answers it: answers would cause errors of the nodes themselves.
            send(node.machine, ip(SOURCES.get(name, node.address), SERVICE, LAST_PROTOCOL, bytes(8)))

        def last() -> int:
            every = (*witness.direct.packets(), *witness.egress.packets())
            return sum(packet.protocol == LAST_PROTOCOL for packet in every)

        until(lambda: last() == len(lab.nodes), "the last have arrived")
        every = (*witness.direct.packets(), *witness.egress.packets())
        return {packet.source for packet in every if packet.protocol == protocol}


@pytest.mark.parametrize("pod", SELECTED)
@pytest.mark.parametrize("service", [SERVICE, SERVICE6])
@pytest.mark.parametrize("protocol", [SCTP, EXPERIMENT])
def test_every_transport_protocol_is_steered(lab: Lab, pod: str, service: str, protocol: int) -> None:
    client = lab.pods[pod]
    own = v6(client.address) if ":" in service else client.address
    body = struct.pack("!HHII", 4000, PORT, 0, 0) + bytes(20)
    assert arrived_of(lab, client, protocol, ip(own, service, protocol, body)) <= {G1}
    client.tag(0)
    client.node.machine.run("conntrack", "-F")
    # The packets are well made: those of a pod that no policy selects arrive.
    assert arrived_of(lab, client, protocol, ip(own, service, protocol, body))


@pytest.mark.parametrize("pod", SELECTED)
@pytest.mark.parametrize("cited", ["a connection of nobody", "its own connection"])
def test_errors_about_forged_packets_lead_nowhere_else(lab: Lab, pod: str, cited: str) -> None:
    client = lab.pods[pod]
    port = 4000
    if cited == "its own connection":
        forge(client, udp(client.address, SERVICE, PORT, source_port=port))
    answer = udp(SERVICE, client.address, port, source_port=PORT)
    error = icmp_error(client.address, SERVICE, answer)
    assert arrived_of(lab, client, ICMP, error) <= {G1}


@pytest.mark.parametrize("pod", SELECTED)
def test_fragments_are_steered_as_a_whole(lab: Lab, pod: str) -> None:
    client = lab.pods[pod]

    def attack() -> None:
        for part in reversed(fragments(udp(client.address, SERVICE, PORT, bytes(60)))):
            forge(client, part)

    assert sources_outside(lab, attack) == {G1}


@pytest.mark.parametrize("pod", SELECTED)
def test_a_priority_tag_hides_no_frame(lab: Lab, pod: str) -> None:
    client = lab.pods[pod]
    mac = bytes.fromhex(gateway_mac(client).replace(":", ""))

    def attack() -> None:
        with client.machine.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            client.machine.inside(lambda: sock.bind(("eth0", 0)))
            own = sock.getsockname()[4]
            packet = udp(client.address, SERVICE, PORT)
            sock.send(mac + own + PRIORITY_TAG + struct.pack("!H", 0x0800) + packet)

    assert sources_outside(lab, attack) == {G1}
