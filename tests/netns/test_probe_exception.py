"""The exception for probes in the guard of the tunnel port lets out nothing that is no probe.

A process that may set the priority of the kernel's own packets (``CAP_NET_RAW``: a container in the host's network has
it) writes the numbers of a probe where the guard looks for them, in packets whose TCP header is elsewhere or missing.
"""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest

from cni.kernel import ids
from tests.lab.packets import ip, udp
from tests.lab.vxlan import TUNNEL_PRIORITY
from tests.lab.waiting import until

from .datapath_lab import FIRST, NODES, SERVICE, SERVICE6, Lab, v6, vxlan_packet
from .datapath_traffic import PORT
from .dual_stack_lab import SIXTH

FORGED = 9100
"""Port to which nothing but forged packets goes."""
NUMBERS = ids.PROBE_NUMBERS.to_bytes(8, "big")
EXPERIMENT = 0x1E
"""Type of an option that the kernel does not know and skips, in IPv4 (RFC 4727) and IPv6."""
SOURCE, SOURCE6 = NODES["w2"], v6(NODES["w2"])
DONT_FRAGMENT = 0x4000


def checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def ip4(protocol: int, body: bytes, options: bytes = b"") -> bytes:
    """Return a packet to the service."""
    size = 20 + len(options)
    start = struct.pack("!BBHHHBB", 0x40 | size // 4, 0, size + len(body), 7, DONT_FRAGMENT, 64, protocol)
    rest = socket.inet_aton(SOURCE) + socket.inet_aton(SERVICE) + options
    return start + checksum(start + rest) + rest + body


def with_options() -> bytes:
    """Return a datagram with the numbers among the options of its header."""
    datagram = udp(SOURCE, SERVICE, FORGED, b"forged")[20:]
    return ip4(socket.IPPROTO_UDP, datagram, struct.pack("!BBH", EXPERIMENT, 12, 0) + NUMBERS)


def echo_request() -> bytes:
    """Return an echo request (RFC 792) with the numbers as identifier, sequence number and data."""
    sums = checksum(b"\x08\0" + NUMBERS)
    return ip4(socket.IPPROTO_ICMP, b"\x08\0" + sums + NUMBERS)


def with_an_extension_header() -> bytes:
    """Return a datagram with the numbers in a header of options for the destination (RFC 8200, section 4.6)."""
    datagram = udp(SOURCE6, SERVICE6, FORGED, b"forged")[40:]
    options = struct.pack("!BBBB", socket.IPPROTO_UDP, 1, EXPERIMENT, 12) + NUMBERS + bytes(4)
    return ip(SOURCE6, SERVICE6, socket.IPPROTO_DSTOPTS, options + datagram)


def send_to_itself(lab: Lab, packet: bytes) -> None:
    sock = lab.nodes["g1"].machine.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock, contextlib.suppress(PermissionError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, TUNNEL_PRIORITY)
        sock.sendto(packet[28:], (NODES["g1"], 4799))


FORMS = {
    "IPv4 options": (FIRST, with_options),
    "ICMP": (FIRST, echo_request),
    "IPv6 options": (SIXTH, with_an_extension_header),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_probe_does_not_get_out(lab6: Lab, form: str) -> None:
    identity, make = FORMS[form]
    with lab6.witness() as witness:
        send_to_itself(lab6, vxlan_packet("w2", "g1", ids.vni(identity), make(), NODES["g1"]))
        with lab6.pods["twin"].datagrams(SERVICE6 if identity == SIXTH else SERVICE) as datagrams:
            datagrams.seen_as()
        until(lambda: len(witness.egress.packets(PORT)) > 0, "a pod's packet after them", seconds=2)
        others = (socket.IPPROTO_ICMP, socket.IPPROTO_DSTOPTS)
        odd = [packet for packet in witness.egress.packets() if packet.protocol in others]
        assert [*witness.egress.packets(FORGED), *odd] == []
