"""By which packets the benches know when a master renews its leases."""

from __future__ import annotations

import socket
import struct

import msgspec
import pytest

from gateway_agent.lease.messages.bodies import Heartbeat, Hello, encode
from gateway_agent.lease.messages.keys import Key, Keyring
from gateway_agent.lease.messages.wire import Endpoint
from gateway_agent.lease.voting.protocol import Claim
from gateway_agent.lease.voting.voter_set import VoterSet
from tests.bench.failures import CLUSTER_PORT
from tests.bench.phase import renews

ENDPOINT = Endpoint("g1", 1, Keyring(Key.parse(b"0123456789abcdef\n")), {"g2": "10.0.0.8"})
QUIET = Heartbeat(1, 250_000_000, VoterSet(1, ("g1",)), None, ("g2",), (), (), False, "", {}, (), None)
RENEWAL = msgspec.structs.replace(QUIET, claims=(Claim("0000000000000001", 3),))


def packet(body: Heartbeat | Hello, port: int = CLUSTER_PORT) -> bytes:
    """Return an IPv4 packet without options that carries a message of the lease daemon."""
    datagram = ENDPOINT.seal("g2", encode(body))
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 28 + len(datagram), 0, 0, 64, socket.IPPROTO_UDP, 0, bytes(4), bytes(4)
    )
    return header + struct.pack("!HHHH", CLUSTER_PORT, port, 8 + len(datagram), 0) + datagram


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (packet(RENEWAL), True),
        (packet(QUIET), False),
        (packet(Hello()), False),
        (packet(RENEWAL, port=53), False),
    ],
    ids=["claims", "claims nothing", "another message", "another port"],
)
def test_only_a_heartbeat_with_claims_renews_leases(found: bytes, expected: bool) -> None:
    assert renews(found) is expected
