"""Frames of a pod that is not there, and their answers."""

from __future__ import annotations

import socket
import struct

import pytest

from gateway_agent.adapters.probes.ip_packet import tcp_packet
from gateway_agent.adapters.probes.pod_packet import (
    ACK,
    RST,
    SEQUENCE,
    SYN,
    Received,
    closing,
    opening,
    received,
)
from gateway_agent.policy.egress_node.pod_probes import Answer, PodProbe

ROUTER = bytes.fromhex("020000000001")
FOUR = PodProbe("a", 1, "203.0.113.1", 443, 3)
SIX = PodProbe("b", 1, "2001:db8::1", 443, 3)
SOURCES = {FOUR: "169.254.233.16", SIX: "fde2:8fff:671d:eb::10"}
HEAD = bytes(14)
PORT = 20007
BOTH = pytest.mark.parametrize("probe", [FOUR, SIX], ids=["ipv4", "ipv6"])


def answered(probe: PodProbe, flags: int) -> bytes:
    addresses = probe.destination, SOURCES[probe]
    numbers = 77 << 32 | SEQUENCE + 1
    return HEAD + tcp_packet(addresses, (443, PORT), numbers, flags, window=1, hops=60)


def icmp_error(probe: PodProbe, kind: int, sender: str) -> bytes:
    about = opening(probe, SOURCES[probe], PORT, ROUTER)[14:]
    content = struct.pack("!BBHI", kind, 0, 0, 0) + about[:48]
    to = SOURCES[probe]
    if probe is SIX:
        head = struct.pack("!IHBB", 6 << 28, len(content), 58, 64)
        return HEAD + head + b"".join(socket.inet_pton(socket.AF_INET6, a) for a in (sender, to)) + content
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(content), 0, 0, 64, 1, 0)
    return HEAD + head + socket.inet_aton(sender) + socket.inet_aton(to) + content


@BOTH
def test_the_frame_of_a_probe(probe: PodProbe) -> None:
    frame = opening(probe, SOURCES[probe], PORT, ROUTER)
    assert frame[:6] == ROUTER
    assert frame[12:14].hex() == ("86dd" if probe is SIX else "0800")
    tcp = frame[54 if probe is SIX else 34 :]
    assert struct.unpack_from("!HHI", tcp) == (PORT, 443, SEQUENCE)
    assert tcp[13] == SYN
    assert frame[21 if probe is SIX else 22] == 3


@BOTH
def test_answers_of_the_destination(probe: PodProbe) -> None:
    taken = Received(PORT, Answer.ACCEPTED, probe.destination, SEQUENCE + 1)
    assert received(answered(probe, SYN | ACK)) == taken
    assert received(answered(probe, RST | ACK)) == Received(PORT, Answer.REFUSED, probe.destination)
    assert received(answered(probe, ACK)) is None


@BOTH
def test_the_end_of_a_connection_is_what_the_destination_expects(probe: PodProbe) -> None:
    tcp = closing(probe, SOURCES[probe], PORT, ROUTER, SEQUENCE + 1)[54 if probe is SIX else 34 :]
    assert struct.unpack_from("!HHI", tcp) == (PORT, 443, SEQUENCE + 1)
    assert tcp[13] == RST


@pytest.mark.parametrize(
    ("probe", "kind", "sender", "answer"),
    [
        (FOUR, 11, "192.0.2.1", Answer.EXPIRED),
        (FOUR, 3, "192.0.2.1", Answer.UNREACHABLE),
        (SIX, 3, "2001:db8::2", Answer.EXPIRED),
        (SIX, 1, "2001:db8::2", Answer.UNREACHABLE),
    ],
)
def test_errors_of_routers(probe: PodProbe, kind: int, sender: str, answer: Answer) -> None:
    assert received(icmp_error(probe, kind, sender)) == Received(PORT, answer, sender)


@pytest.mark.parametrize("kind", [0, 8, 128])
def test_other_icmp_is_no_answer(kind: int) -> None:
    assert received(icmp_error(FOUR, kind, "192.0.2.1")) is None


@BOTH
def test_what_is_cut_off_is_no_answer_or_the_same_one(probe: PodProbe) -> None:
    for whole in (icmp_error(probe, 3, probe.destination), answered(probe, SYN | ACK)):
        for size in range(len(whole)):
            found = received(whole[:size])
            assert found is None or found.port == PORT
