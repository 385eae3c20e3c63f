"""Pods on a bridge that claim other machines' addresses, or to be a router: packets of selected pods go as before."""

from __future__ import annotations

import socket
import struct

import pytest

from gateway_agent.lease.virtual_ips import arp
from tests.lab.packets import frame, ip, mac_of, send_frame, udp

from .datapath_lab import SERVICE, SERVICE6, VIRTUAL, VIRTUAL6, Lab, Pod, v6
from .datapath_traffic import PORT
from .test_forged_sources import G1, sources_outside

ROUTERS = ("10.0.0.254", "172.16.0.254")
ALL_NODES = "ff02::1"
OTHER = "10.244.0.99"
"""Address of the bridge's network that the node knows by another MAC."""


def router_advertisement() -> bytes:
    """Return that of a default router with a prefix and a route to the service (RFC 4861, 4.2; RFC 4191, 2.3)."""
    head = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0x08, 1800, 0, 0)
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + socket.inet_pton(
        socket.AF_INET6, "fd00:bad::"
    )
    route = struct.pack("!BBBBI", 24, 3, 64, 0x08, 3600) + socket.inet_pton(socket.AF_INET6, "2001:db8::")
    return head + prefix + route


def redirect6(target: str, destination: str) -> bytes:
    """Return a redirect message (RFC 4861, 4.5)."""
    addresses = (socket.inet_pton(socket.AF_INET6, each) for each in (target, destination))
    return struct.pack("!BBHI", 137, 0, 0, 0) + b"".join(addresses)


def redirect(router: str, node: str, target: str) -> bytes:
    """Return a redirect message of ``router`` for packets of ``node`` to the service (RFC 792)."""
    cited = udp(node, SERVICE, PORT)[:28]
    body = struct.pack("!BBH4s", 5, 1, 0, socket.inet_aton(target)) + cited
    total = sum(struct.unpack(f"!{len(body) // 2}H", body))
    total = (total & 0xFFFF) + (total >> 16)
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return ip(router, node, socket.IPPROTO_ICMP, body[:2] + struct.pack("!H", total) + body[4:])


def claim_everything(pod: Pod, mac: str, bridge_mac: str) -> None:
    """Send all claims that a pod may make on its bridge."""
    claimed = (
        *ROUTERS,
        *map(v6, ROUTERS),
        VIRTUAL,
        VIRTUAL6,
        SERVICE,
        SERVICE6,
        pod.node.address,
        "10.244.0.1",
        OTHER,
    )
    with pod.machine.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        pod.machine.inside(lambda: sock.bind(("eth0", 0)))
        for address in claimed:
            sock.send((arp.advertisement if ":" in address else arp.gratuitous)(address, mac))
        for router in ROUTERS:
            sock.send(frame(bridge_mac, mac, redirect(router, pod.node.address, pod.address)))
    with pod.machine.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as icmp:
        for option in (socket.IPV6_UNICAST_HOPS, socket.IPV6_MULTICAST_HOPS):
            icmp.setsockopt(socket.IPPROTO_IPV6, option, 255)
        icmp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        icmp.sendto(router_advertisement(), (ALL_NODES, 0))
        for to in (ALL_NODES, v6("10.244.0.1")):
            icmp.sendto(redirect6(v6(pod.address), SERVICE6), (to, 0))


@pytest.mark.parametrize("attacker", ["bridged", "unselected"])
def test_no_claim_of_a_pod_changes_where_packets_go(lab: Lab, attacker: str) -> None:
    pod, victim = lab.pods[attacker], lab.pods["bridged"]
    node, mac = pod.node.machine, mac_of(pod.machine, "eth0")
    bridge_mac = mac_of(node, "cbr0")

    def routes() -> tuple[str, ...]:
        own = [node.run("ip", family, "route", "show", "table", "all") for family in ("-4", "-6")]
        return (*own, node.run("ip", "route", "get", SERVICE), node.run("ip", "-6", "route", "get", SERVICE6))

    node.ip(f"neigh replace {OTHER} lladdr 02:00:00:00:00:99 dev cbr0 nud stale")
    before = routes()
    claim_everything(pod, mac, bridge_mac)

    def send() -> None:
        for service, own in ((SERVICE, victim.address), (SERVICE6, v6(victim.address))):
            send_frame(victim.machine, "eth0", bridge_mac, udp(own, service, PORT))

    assert sources_outside(lab, send) == {G1}
    assert routes() == before
    assert mac not in node.run("ip", "neigh", "show", "dev", "eth0")
    # The claims arrive: that of an address of the bridge's own network is believed.
    assert mac in node.run("ip", "neigh", "show", "dev", "cbr0", "to", OTHER)
