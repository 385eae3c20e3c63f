"""The bytes of a probe, read by a decoder of the tests' own."""

from __future__ import annotations

import ipaddress
import struct

import pytest

from cni.kernel import ids
from gateway_agent.adapters.probes.tunnel_packet import encapsulated, number_in
from gateway_agent.policy.egress_node.path_faults import TunnelProbe

NODE = "10.0.0.1"
FOUR = TunnelProbe(0xABCDEF, "10.0.0.11", "203.0.113.1")
SIX = TunnelProbe(0x000001, "fde2:8fff:671d:e9::1", "2001:db8::1")


def ones_complement_sum(data: bytes) -> int:
    """Return 0xFFFF if a checksum in the data is right (RFC 1071, section 1)."""
    data += bytes(len(data) % 2)
    total = 0
    for high, low in zip(data[::2], data[1::2], strict=True):
        total += high << 8 | low
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    return total


@pytest.mark.parametrize("probe", [FOUR, SIX], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("size", [0, 60, 1281, 1450])
@pytest.mark.parametrize("number", [1, 0xFFFF])
def test_a_worker_could_have_sent_it(probe: TunnelProbe, size: int, number: int) -> None:
    probe = TunnelProbe(probe.vni, probe.source, probe.destination, size)
    data = encapsulated(probe, NODE, number)
    assert data[:8] == b"\x08\0\0\0" + probe.vni.to_bytes(3, "big") + b"\0"
    assert data[8:14].hex(":") == ids.node_mac(NODE)
    assert data[14:20].hex(":") != ids.node_mac(NODE)
    kind, packet = data[20:22].hex(), data[22:]
    source, destination = (ipaddress.ip_address(text).packed for text in (probe.source, probe.destination))
    if probe.source == FOUR.source:
        assert kind == "0800"
        assert (packet[0], packet[9], packet[12:16], packet[16:20]) == (0x45, 6, source, destination)
        assert struct.unpack_from("!H", packet, 2)[0] == len(packet)
        assert ones_complement_sum(packet[:20]) == 0xFFFF
        tcp = packet[20:]
    else:
        assert kind == "86dd"
        assert (packet[0] >> 4, packet[6], packet[8:24], packet[24:40]) == (6, 6, source, destination)
        assert struct.unpack_from("!H", packet, 4)[0] == len(packet) - 40
        tcp = packet[40:]
    least = 40 if kind == "0800" else 60
    assert len(packet) == max(size, least)
    assert tcp[4:12] == ids.PROBE_NUMBERS.to_bytes(8, "big")
    assert tcp[13] == 0x02
    pseudo = source + destination + struct.pack("!II", len(tcp), 6)
    assert ones_complement_sum(pseudo + tcp) == 0xFFFF
    assert number_in(packet) == number


@pytest.mark.parametrize("packet", [b"", b"\x45", b"\x45" + bytes(34), b"\x60" + bytes(54)])
def test_what_is_too_short_has_no_number(packet: bytes) -> None:
    assert number_in(packet) == -1
