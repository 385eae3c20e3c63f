from __future__ import annotations

import socket
import struct

import pytest

from tests.lab.capture import Packet, parse
from tests.lab.silence import Probe, Silence, longest

MS = 1_000_000


def probes(pattern: str, pause_after: int = -1) -> list[Probe]:
    """One probe for each character, a millisecond apart; ``.`` is answered, ``x`` is lost."""
    row, at = [], 0
    for number, mark in enumerate(pattern):
        row.append(Probe(at, "172.16.0.7" if mark == "." else ""))
        at += 50 * MS if number == pause_after else MS
    return row


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", Silence(0, 0, True)),
        ("....", Silence(0, 0, True)),
        ("..xx..", Silence(3, 2, True)),
        (".x..xxx.x.", Silence(4, 5, True)),
        ("..xxx", Silence(3, 3, False)),
        ("xx..", Silence(2, 2, True)),
    ],
)
def test_longest_row_of_lost_probes(pattern: str, expected: Silence) -> None:
    assert longest(probes(pattern)) == expected


def test_a_pause_of_the_prober_is_no_silence() -> None:
    assert longest(probes("......", pause_after=2)).milliseconds == 0


def ipv4(protocol: int, payload: bytes, options: bytes = b"") -> bytes:
    header = bytes([0x40 | (5 + len(options) // 4)]) + bytes(8) + bytes([protocol]) + bytes(2)
    return header + bytes([172, 16, 0, 7, 203, 0, 113, 10]) + options + payload


def test_parse_returns_source_and_ports() -> None:
    ports = struct.pack("!HH", 1234, 9000)
    expected = Packet(5, "172.16.0.7", socket.IPPROTO_UDP, 1234, 9000)
    assert parse(ipv4(socket.IPPROTO_UDP, ports), 5) == expected
    assert parse(ipv4(socket.IPPROTO_UDP, ports, options=bytes(8)), 5) == expected


def test_parse_passes_over_what_is_no_ip_or_has_no_ports() -> None:
    assert parse(b"", 5) is None
    assert parse(bytes(28), 5) is None
    assert parse(ipv4(socket.IPPROTO_ICMP, bytes(8)), 5) == Packet(5, "172.16.0.7", 1, 0, 0)
