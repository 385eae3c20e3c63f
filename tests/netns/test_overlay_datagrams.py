"""Datagrams that a selected pod sends into another program's overlay, where a node would take out what is inside.

The overlay's devices take packets from everybody. ``flannel.1`` is on each node, with its IPv4 address; a device over
IPv6 and one with a port of its own and without an address are as of other programs.
"""

from __future__ import annotations

import functools
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import pytest

from cni.datapath.overlay_guard import PROTOCOLS
from cni.kernel import ids
from cni.plan import Destination, PolicySet
from tests.lab.namespace import Namespace
from tests.lab.packets import frame, ip, mac_of, udp, with_options
from tests.lab.waiting import until

from .datapath_lab import (
    DESTINATIONS,
    FIRST,
    SERVICE,
    SOURCES,
    TAG,
    Lab,
    Node,
    Pod,
    plan,
    v6,
)
from .datapath_traffic import PORT
from .test_forged_sources import G1, SELECTED, forge, sources_outside
from .test_other_protocols import fragments

VNI, ODD_PORT = 1, 7777
INNER = "198.51.100.7"
"""Source of the inner packets: nobody reserves it, so it shows outside where the packet left the nodes."""
SECOND_ADDRESS = "10.9.0.{}"
"""Address of a node that no Node object names, on a network of its own."""


@dataclass(frozen=True)
class Overlay:
    """A device that is on every node: its port, and the IP version of its outer packets."""

    device: str
    port: int
    version: int = 4
    local: bool = True


FLANNEL = Overlay("flannel.1", 8472)
OVER6 = Overlay("vxlan6", 4789, version=6)
ODD = Overlay("odd.1", ODD_PORT, local=False)
OVERLAYS = (FLANNEL, OVER6, ODD)


@pytest.fixture
def overlays(lab: Lab) -> Iterator[None]:
    for name, node in lab.nodes.items():
        for number, overlay in enumerate(OVERLAYS, 1):
            address = v6(node.address) if overlay.version == 6 else node.address
            local = f"local {address}" if overlay.local else ""
            node.machine.ip(
                f"link add {overlay.device} type vxlan id {number} dstport {overlay.port} {local} nolearning",
                f"address add 10.24{number}.255.{node.address.rpartition('.')[2]}/32 dev {overlay.device}",
                f"link set {overlay.device} up",
            )
            node.machine.sysctl({f"net/ipv4/conf/{overlay.device}/rp_filter": "0"})
        node.machine.ip(f"address add {second(node)}/32 dev cbr0")
        own = (node.address, v6(node.address))
        node.ensure(plan(name, overlay_ports=(ODD_PORT,), overlay_addresses=own))
    yield
    for node in lab.nodes.values():
        node.machine.ip(*(f"link del {overlay.device}" for overlay in OVERLAYS))
        node.machine.ip(f"address del {second(node)}/32 dev cbr0")


def second(node: Node) -> str:
    return SECOND_ADDRESS.format(node.address.rpartition(".")[2])


def datagram(sender: str, to: Node, overlay: Overlay, destination: str = "") -> bytes:
    """Return what a UDP socket of a pod would send. ``destination``: its address, if it is not the node's."""
    target = destination or (v6(to.address) if overlay.version == 6 else to.address)
    header = struct.pack("!II", 0x08000000, (OVERLAYS.index(overlay) + 1) << 8)
    inner = udp(INNER, SERVICE, PORT)
    content = header + frame(mac_of(to.machine, overlay.device), "02:00:00:00:00:01", inner)
    source = v6(sender) if ":" in target else sender
    return udp(source, target, overlay.port, content)


def target_of(lab: Lab, pod: Pod, where: str) -> Node:
    return pod.node if where == "own" else lab.nodes["w2" if pod.node.name != "w2" else "w1"]


@dataclass(frozen=True)
class Attack:
    """Frames that a pod sends, and what they are in words."""

    name: str
    frames: Sequence[bytes]


def attacks(lab: Lab, pod: Pod) -> Iterator[Attack]:
    """Yield datagrams into each overlay of the pod's own node and of another one."""
    for where in ("own", "other"):
        node = target_of(lab, pod, where)
        for overlay in OVERLAYS:
            packet = datagram(pod.address, node, overlay)
            named = f"{overlay.device} of its {where} node"
            yield Attack(named, [packet])
            yield Attack(f"{named}, with options", [with_options(packet)])
            if overlay.version == 4:
                yield Attack(f"{named}, in fragments", list(reversed(fragments(packet))))


def forge_all(pod: Pod, frames: Iterable[bytes]) -> None:
    for each in frames:
        forge(pod, each)


def arrived(lab: Lab, pod: Pod, tried: Iterable[Attack]) -> dict[str, set[str]]:
    """Return the sources outside of the inner packets of each attack, by its name, if there are any."""
    found = {}
    for attack in tried:
        # So that no answer of the connection before decides.
        pod.node.machine.run("conntrack", "-F")
        if sources := sources_outside(lab, functools.partial(forge_all, pod, attack.frames)):
            found[attack.name] = sources
    return found


@pytest.mark.usefixtures("overlays")
@pytest.mark.parametrize("pod", SELECTED)
def test_a_selected_pod_cannot_send_into_an_overlay(lab: Lab, pod: str) -> None:
    client = lab.pods[pod]
    tried = list(attacks(lab, client))
    assert arrived(lab, client, tried) == {}
    client.tag(0)
    # The packets are well made: from a pod that no policy selects they arrive.
    assert arrived(lab, client, tried) == {each.name: {INNER} for each in tried}


@pytest.mark.usefixtures("overlays")
@pytest.mark.parametrize("pod", ["bridged", "routed"])
def test_no_other_address_of_its_node_leads_into_an_overlay(lab: Lab, pod: str) -> None:
    """The bridge's own, multicast and broadcast: the kernel gives them all to the device that has no address."""
    client = lab.pods[pod]
    named = ("10.244.0.1", "224.0.0.1", "255.255.255.255", second(client.node))
    tried = [Attack(to, [datagram(client.address, client.node, ODD, to)]) for to in named]
    assert arrived(lab, client, tried) == {}
    client.tag(0)
    # It drops what comes by another interface than the one that has the address, from whatever pod.
    client.node.nft("flush chain inet egress_gateway overlay_target")
    assert arrived(lab, client, tried) == {each.name: {INNER} for each in tried}
    client.tag(1)
    named = ("fe80::1", "ff02::1", v6("10.244.0.1"), "::ffff:10.0.0.11")
    tried = [Attack(to, [datagram(client.address, client.node, OVER6, to)]) for to in named]
    assert arrived(lab, client, tried) == {}


@pytest.mark.usefixtures("overlays")
@pytest.mark.parametrize("pod", ["bridged", "routed"])
def test_a_service_does_not_lead_into_an_overlay(lab: Lab, pod: str) -> None:
    """Whoever may write the endpoints of a Service leads its port to a node."""
    client = lab.pods[pod]
    services = {"10.96.0.1": "own", "10.96.0.2": "other"}
    nodes = {service: target_of(lab, client, where) for service, where in services.items()}
    rules = "".join(
        f"ip daddr {service} udp dport {{ 53, {ODD_PORT} }} dnat to {node.address}:{ODD_PORT};"
        for service, node in nodes.items()
    )
    client.node.nft(
        f"table ip overlay_service {{ chain pre {{ type nat hook prerouting priority dstnat; {rules} }}; }}"
    )
    tried = []
    for service, node in nodes.items():
        content = datagram(client.address, node, ODD, service)[28:]
        tried += [
            Attack(f"{service}:{port}", [udp(client.address, service, port, content)])
            for port in (53, ODD_PORT)
        ]
    try:
        assert arrived(lab, client, tried) == {}
        client.tag(0)
        assert arrived(lab, client, tried) == {each.name: {INNER} for each in tried}
    finally:
        client.node.nft("delete table ip overlay_service")


@pytest.mark.usefixtures("overlays")
@pytest.mark.parametrize("pod", ["bridged", "routed"])
def test_an_address_inside_another_node_does_not_lead_into_its_overlay(lab: Lab, pod: str) -> None:
    """The address of its pods' bridge: no Node object names it, and networks without encapsulation route it."""
    client, other = lab.pods[pod], lab.nodes["w2"]
    client.node.machine.ip(f"route add {second(other)}/32 via {other.address}")
    packet = datagram(client.address, other, ODD, second(other))
    try:
        assert sources_outside(lab, lambda: forge(client, packet)) == set()
        other.nft("flush chain inet egress_gateway overlay_target")
        assert sources_outside(lab, lambda: forge(client, packet)) == {INNER}
    finally:
        client.node.machine.ip(f"route del {second(other)}/32")


@pytest.mark.usefixtures("overlays")
@pytest.mark.parametrize("pod", ["bridged", "routed"])
def test_the_gateway_does_not_lead_into_an_overlay_of_the_master(lab: Lab, pod: str) -> None:
    """An address of the master that nobody names is reached through the tunnel."""
    client, master = lab.pods[pod], lab.nodes["g1"]
    unnamed = "203.0.113.2"
    master.machine.ip(f"address add {unnamed}/32 dev lo")
    packet = datagram(client.address, master, ODD, unnamed)
    try:
        assert sources_outside(lab, lambda: forge(client, packet)) == set()
        master.nft("flush chain inet egress_gateway overlay_input")
        assert sources_outside(lab, lambda: forge(client, packet)) == {INNER}
    finally:
        master.machine.ip(f"address del {unnamed}/32 dev lo")


@pytest.mark.usefixtures("overlays")
@pytest.mark.parametrize("pod", ["bridged", "routed", "onmaster"])
def test_the_gateway_does_not_lead_into_an_overlay_of_another_egress_node(lab: Lab, pod: str) -> None:
    """The other one's egress address is in no Node object, so a policy may lead to it; so may a Service."""
    client, other, service = lab.pods[pod], lab.nodes["g2"], "10.96.0.1"
    address = SOURCES["g2"]
    wanted = plan(client.node.name, overlay_ports=(ODD_PORT,), overlay_addresses=(client.node.address,))
    led = PolicySet(TAG, ("a", "b"), (FIRST,), (*DESTINATIONS, Destination(f"{address}/32", FIRST)))
    client.node.ensure(replace(wanted, policy_sets=(led, *wanted.policy_sets[1:])))
    client.node.nft(
        "table ip overlay_service { chain pre { type nat hook prerouting priority dstnat;"
        f" ip daddr {service} udp dport 53 dnat to {address}:{ODD_PORT}; }}; }}"
    )
    packet = datagram(client.address, other, ODD, address)
    tried = [
        Attack("itself", [packet]),
        Attack("a Service", [udp(client.address, service, 53, packet[28:])]),
    ]
    try:
        assert arrived(lab, client, tried) == {}
        # The packets are well made, and the gateway leads there.
        client.node.nft("flush chain inet egress_gateway into_overlay")
        assert arrived(lab, client, tried) == {each.name: {INNER} for each in tried}
    finally:
        client.node.nft("delete table ip overlay_service")


@pytest.mark.usefixtures("overlays")
@pytest.mark.parametrize("pod", ["bridged", "routed"])
def test_a_packet_in_an_overlay_does_not_lead_into_it_once_more(lab: Lab, pod: str) -> None:
    """Pods of two nodes reach each other by the overlay, and so an address that the other node has inside of it."""
    client, other = lab.pods[pod], lab.nodes["w2"]
    join(client.node, other, FLANNEL)
    packet = datagram(client.address, other, ODD, inside(other, FLANNEL))
    assert sources_outside(lab, lambda: forge(client, packet)) == set()
    other.nft("flush chain inet egress_gateway overlay_input")
    assert sources_outside(lab, lambda: forge(client, packet)) == {INNER}


@pytest.mark.usefixtures("overlays")
@pytest.mark.parametrize("pod", SELECTED)
@pytest.mark.parametrize("version", [4, 6])
def test_a_selected_pod_sends_no_node_a_packet_in_a_packet(lab: Lab, pod: str, version: int) -> None:
    """IP in IP, GRE, MPLS in IP: the kernel of the lab has no such device, so a raw socket takes its place."""
    client = lab.pods[pod]
    for where in ("own", "other"):
        node = target_of(lab, client, where)
        source, destination = client.address, node.address
        if version == 6:
            source, destination = v6(source), v6(destination)
        for protocol in PROTOCOLS:
            client.tag(1)
            packet = ip(source, destination, protocol, udp(INNER, SERVICE, PORT))
            family = socket.AF_INET6 if version == 6 else socket.AF_INET
            with node.machine.socket(family, socket.SOCK_RAW, protocol) as listener:
                listener.settimeout(2)
                before = dropped(client.node)
                forge(client, packet)
                until(functools.partial(has_dropped, client.node, before), "it is dropped")
                client.tag(0)
                forge(client, bytes(packet[:-1]) + b"z")
                # The first one that arrives is the one that was sent without the tag.
                assert listener.recv(200).endswith(b"z")


def has_dropped(node: Node, before: int) -> bool:
    return dropped(node) > before


def dropped(node: Node) -> int:
    """Return how many packets the guard of the overlays has dropped on a node."""
    text = node.machine.run("nft", "list", "chain", "inet", ids.NFT_NODE_INET, "overlay_drop")
    return int(text.partition("counter packets ")[2].split()[0])


# --- what must go on -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("overlays")
@pytest.mark.parametrize("pod", ["bridged", "routed"])
def test_a_selected_pod_talks_to_other_pods_and_to_the_outside_at_these_ports(lab: Lab, pod: str) -> None:
    client, other = lab.pods[pod], lab.pods["unselected"]
    for port in (FLANNEL.port, OVER6.port, ODD_PORT):
        assert asked(client, other.machine, other.address, port) == client.address
        assert asked(client, lab.outside, SERVICE, port) == G1


@pytest.mark.usefixtures("overlays")
def test_a_pod_that_no_policy_selects_talks_to_nodes_at_these_ports(lab: Lab) -> None:
    other = lab.pods["unselected"]
    lab.nodes["w1"].machine.ip(*(f"link del {overlay.device}" for overlay in OVERLAYS[::2]))
    for port in (FLANNEL.port, ODD_PORT):
        assert asked(other, lab.nodes["w1"].machine, lab.nodes["w1"].address, port) == other.address
    lab.nodes["w1"].machine.ip(
        *(
            f"link add {overlay.device} type vxlan id {99 + overlay.port} dstport {overlay.port}"
            for overlay in OVERLAYS[::2]
        )
    )


def asked(client: Pod, server: Namespace, address: str, port: int) -> str:
    """Return the address that a server at this port sees of a client whose question it answers."""
    with (
        server.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        client.machine.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sink.bind((address, port))
        sink.settimeout(2)
        sender.settimeout(2)
        sender.sendto(b"question", (address, port))
        question, source = sink.recvfrom(100)
        assert question == b"question"
        sink.sendto(b"answer", source)
        assert sender.recv(100) == b"answer"
        return str(source[0])


@pytest.mark.usefixtures("overlays")
@pytest.mark.parametrize("overlay", OVERLAYS, ids=[each.device for each in OVERLAYS])
def test_the_overlay_itself_works(lab: Lab, overlay: Overlay) -> None:
    """Its own packets come from the address of a node to that of another."""
    one, other = lab.nodes["w1"], lab.nodes["w2"]
    for node, far in ((one, other), (other, one)):
        join(node, far, overlay)
    one.machine.run("ping", "-c", "1", "-W", "2", "-I", inside(one, overlay), inside(other, overlay))


def inside(node: Node, overlay: Overlay) -> str:
    """Return the address of the node's overlay device."""
    return f"10.24{OVERLAYS.index(overlay) + 1}.255.{node.address.rpartition('.')[2]}"


def join(node: Node, far: Node, overlay: Overlay) -> None:
    """Let the node reach the other one's address inside of the overlay, as the overlay's program does."""
    mac, target = (
        mac_of(far.machine, overlay.device),
        v6(far.address) if overlay.version == 6 else far.address,
    )
    node.machine.ip(
        f"route add {inside(far, overlay)}/32 dev {overlay.device}",
        f"neigh add {inside(far, overlay)} lladdr {mac} dev {overlay.device}",
    )
    node.machine.run("bridge", "fdb", "add", mac, "dev", overlay.device, "dst", target)
