"""Packets that a pod puts into an overlay of its node: VXLAN of another program takes them from everybody."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from tests.lab.packets import frame, mac_of, udp

from .datapath_lab import NODES, SERVICE, SERVICE6, SOURCES, VIRTUAL, VIRTUAL6, Lab, v6
from .datapath_traffic import PORT
from .test_forged_sources import W1, forge, sources_outside

OVERLAY, OVERLAY_PORT, OVERLAY_VNI = "flannel.1", 8472, 1
"""The device, port and number that flannel uses."""


@pytest.fixture
def overlay(lab: Lab) -> Iterator[str]:
    """Yield the MAC of an overlay device of another program on w1."""
    machine = lab.nodes["w1"].machine
    machine.ip(
        f"link add {OVERLAY} type vxlan id {OVERLAY_VNI} dstport {OVERLAY_PORT} local {W1} nolearning",
        f"address add 10.244.255.0/32 dev {OVERLAY}",
        f"link set {OVERLAY} up",
    )
    machine.sysctl({f"net/ipv4/conf/{OVERLAY}/rp_filter": "0"})
    yield mac_of(machine, OVERLAY)
    machine.ip(f"link del {OVERLAY}")


def encapsulated(sender: str, mac: str, inner: bytes) -> bytes:
    """Return what a UDP socket of a pod sends to the overlay's port of its node."""
    header = struct.pack("!II", 0x08000000, OVERLAY_VNI << 8)
    return udp(sender, W1, OVERLAY_PORT, header + frame(mac, "02:00:00:00:00:01", inner))


@pytest.mark.parametrize("pod", ["unselected", "bridged", "routed"])
@pytest.mark.parametrize("family", [4, 6])
def test_no_pod_sends_with_a_virtual_address_or_a_nodes_by_an_overlay(
    lab: Lab, overlay: str, pod: str, family: int
) -> None:
    sender = lab.pods[pod]
    # A selected pod's packets do not come so far: tests/netns/test_overlay_datagrams.py.
    sender.tag(0)
    forged, service = [VIRTUAL, *NODES.values(), *SOURCES.values()], SERVICE
    if family == 6:
        forged, service = [VIRTUAL6, *map(v6, forged[1:])], SERVICE6

    def attack() -> None:
        for source in forged:
            forge(sender, encapsulated(sender.address, overlay, udp(source, service, PORT)))

    assert sources_outside(lab, attack) == set()
    # The packets are well made: those of an address that nobody reserves arrive.
    other = "198.51.100.7" if family == 4 else "2001:db8:1::7"
    inner = udp(other, service, PORT)
    assert sources_outside(lab, lambda: forge(sender, encapsulated(sender.address, overlay, inner))) == {
        other
    }
