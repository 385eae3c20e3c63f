"""Raw packets are what they say, with checksums that a receiver accepts."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from tests.lab import packets
from tests.lab.capture import parse

PAIRS = [("203.0.113.10", "10.244.1.5"), ("2001:db8::10", "fd00:244::5")]


@pytest.mark.parametrize(("source", "destination"), PAIRS)
@pytest.mark.parametrize(("make", "protocol"), [(packets.udp, 17), (packets.tcp, 6)])
def test_a_packet_has_its_addresses_ports_and_a_right_checksum(
    make: Callable[..., bytes], protocol: int, source: str, destination: str
) -> None:
    packet = make(source, destination, 9000, payload=b"odd", source_port=4001)
    parsed = parse(packet, 0)
    assert parsed is not None
    assert (parsed.source, parsed.protocol) == (source, protocol)
    assert (parsed.source_port, parsed.destination_port) == (4001, 9000)
    body = packet[40:] if ":" in source else packet[20:]
    addresses = ip_address(source).packed + ip_address(destination).packed
    assert addresses == (packet[8:40] if ":" in source else packet[12:20])
    assert _sum(addresses + struct.pack("!II", len(body), protocol) + body) == 0xFFFF
    if ":" not in source:
        assert _sum(packet[:20]) == 0xFFFF


def test_a_frame_says_which_family_it_carries() -> None:
    for (source, destination), kind in zip(PAIRS, (0x0800, 0x86DD), strict=True):
        packet = packets.udp(source, destination, 1)
        frame = packets.frame("02:00:00:00:00:01", "02:00:00:00:00:02", packet)
        assert frame == bytes.fromhex("020000000001020000000002") + struct.pack("!H", kind) + packet


def _sum(data: bytes) -> int:
    """Of 16-bit words in one's complement: 0xffff over data with a right checksum in it (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return int(total)
