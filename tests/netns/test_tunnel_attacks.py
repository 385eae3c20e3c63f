"""Attacks on the tunnels: by users without rights on nodes, and by nodes in another node's name."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest

from cni.kernel import ids
from tests.lab.capture import Capture, Packet
from tests.lab.local_user import as_local_user
from tests.lab.packets import frame, mac_of, send, udp
from tests.lab.waiting import until

from .datapath_lab import (
    FIRST,
    NODES,
    PORT,
    SERVICE,
    SOURCES,
    TUNNEL_PRIORITY,
    Lab,
    plan,
    vxlan_packet,
    vxlan_payload,
)

VNI = ids.vni(FIRST)
DEVICE = ids.device(VNI)
SYNC = (ids.SYNC_GROUP, ids.SYNC_PORT)


def sent_plainly(address: str) -> Callable[[bytes], None]:
    """Return a function that sends a payload to the tunnel port by an ordinary socket; it may be refused."""

    def go(payload: bytes) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock, contextlib.suppress(PermissionError):
            sock.sendto(payload, (address, 4799))

    return go


def sent_by_device(
    device: str, to: tuple[str, int], source: str = "", loop: bool = False
) -> Callable[[], None]:
    """Return a function that sends a datagram by a device, which Linux permits to every user."""

    def go() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            sock.bind((source, 0))
            # conntrackd has none looped back.
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, loop)
            sock.sendto(b"forged", to)

    return go


@pytest.mark.parametrize("node", ["w2", "g2", "g1"])
@pytest.mark.parametrize("form", ["10.0.0.1", "::ffff:10.0.0.1"])
def test_a_local_user_cannot_speak_vxlan_to_a_gateway(lab: Lab, node: str, form: str) -> None:
    forged = vxlan_payload("w2", "g1", VNI, udp(NODES["w2"], SERVICE, PORT, b"forged"))
    with lab.witness() as witness:
        as_local_user(lab.nodes[node].machine, lambda: sent_plainly(form)(forged))
        _proof(lab)
        until(lambda: len(witness.egress.packets(PORT)) > 0, "what the kernel itself encapsulates", seconds=2)
        assert len(witness.egress.packets(PORT)) == 1


def test_a_local_user_cannot_have_the_priority_of_the_kernels_own_packets(lab: Lab) -> None:
    forged = vxlan_payload("w2", "g1", VNI, udp(NODES["w2"], SERVICE, PORT, b"forged"))
    priority = struct.pack("=i", TUNNEL_PRIORITY)

    def attack() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            with contextlib.suppress(PermissionError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, priority)
            with contextlib.suppress(PermissionError):
                sock.sendto(forged, (NODES["g1"], 4799))
            # With one packet only (Linux 6.14).
            with contextlib.suppress(OSError):
                option = (socket.SOL_SOCKET, socket.SO_PRIORITY, priority)
                sock.sendmsg([forged], [option], 0, (NODES["g1"], 4799))

    # Without the looks at the socket of a process: the priority alone must do.
    lab.nodes["w2"].nft(
        f"flush chain inet {ids.NFT_NODE_INET} tunnel_process\ndelete table netdev {ids.NFT_FENCE}\n"
    )
    with Capture(lab.nodes["g1"].machine, "eth0") as arrived:
        as_local_user(lab.nodes["w2"].machine, attack)
        _proof(lab)
        until(lambda: len(_to_gateway(arrived)) > 0, "what the kernel itself encapsulates", seconds=2)
        assert len(_to_gateway(arrived)) == 1


def test_a_local_user_cannot_send_into_a_tunnel_device(lab: Lab) -> None:
    with Capture(lab.nodes["g1"].machine, "eth0") as capture:
        for device in (DEVICE, ids.RETURN_DEVICE):
            as_local_user(lab.nodes["w2"].machine, sent_by_device(device, (SERVICE, PORT)))
            as_local_user(lab.nodes["w2"].machine, sent_by_device(device, (NODES["g1"], PORT)))
        _proof(lab)
        until(lambda: len(_to_gateway(capture)) > 0, "what the kernel itself encapsulates", seconds=2)
        assert len(_to_gateway(capture)) == 1


Attack = Callable[[Lab, str, bytes], None]


def _by_socket(lab: Lab, node: str, packet: bytes) -> None:
    """Send the payload by a UDP socket that has the priority."""
    sock = lab.nodes[node].machine.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock, contextlib.suppress(PermissionError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, TUNNEL_PRIORITY)
        sock.sendto(packet[28:], (NODES["g1"], 4799))


def _raw(lab: Lab, node: str, packet: bytes) -> None:
    with contextlib.suppress(PermissionError):
        send(lab.nodes[node].machine, packet, priority=TUNNEL_PRIORITY)


def _frame(lab: Lab, node: str, packet: bytes) -> None:
    """Send a frame by the uplink: no hook of an IP family sees it."""
    _send_frame(lab, node, "eth0", _uplink_mac(lab), packet)


def _frame_past_the_queue(lab: Lab, node: str, packet: bytes) -> None:
    _send_frame(lab, node, "eth0", _uplink_mac(lab), packet, (PACKET_QDISC_BYPASS, 1))


def _into_the_device(lab: Lab, node: str, packet: bytes) -> None:
    """Have the kernel encapsulate a frame of the process's own."""
    _send_frame(lab, node, DEVICE, ids.node_mac(NODES["g1"]), packet[28 + 8 + 14 :])


def _send_frame(
    lab: Lab, node: str, device: str, mac: str, packet: bytes, option: tuple[int, int] | None = None
) -> None:
    machine = lab.nodes[node].machine
    with machine.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        machine.inside(lambda: sock.bind((device, 0)))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, TUNNEL_PRIORITY)
        if option:
            sock.setsockopt(SOL_PACKET, *option)
        # A frame that the kernel drops counts as sent, or as a queue that is full.
        with contextlib.suppress(OSError):
            sock.send(frame(mac, sock.getsockname()[4].hex(":"), packet))


def _uplink_mac(lab: Lab) -> str:
    return mac_of(lab.nodes["g1"].machine, "eth0")


SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20
"""linux/socket.h, linux/if_packet.h."""
ATTACKS: tuple[Attack, ...] = (_by_socket, _raw, _frame, _frame_past_the_queue, _into_the_device)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("node", ["w2", "g2"])
def test_a_process_with_raw_rights_cannot_speak_vxlan_to_a_gateway(
    lab: Lab, node: str, attack: Attack
) -> None:
    """It may set the priority of the kernel's own packets, write whole frames, and send into the tunnel's device."""
    inner = udp(NODES[node], SERVICE, PORT, b"forged")
    with lab.witness() as witness, Capture(lab.nodes["g1"].machine, "eth0") as arrived:
        attack(lab, node, vxlan_packet(node, "g1", VNI, inner))
        _proof(lab)
        until(lambda: len(witness.egress.packets(PORT)) > 0, "what the kernel itself encapsulates", seconds=2)
        assert len(witness.egress.packets(PORT)) == 1
        assert len(_to_gateway(arrived)) == 1


@pytest.mark.parametrize("attack", [_by_socket, _raw, _frame, _frame_past_the_queue])
@pytest.mark.parametrize("vni", [ids.RETURN_VNI, ids.SYNC_VNI])
def test_a_process_with_raw_rights_on_a_worker_forges_no_answers(lab: Lab, attack: Attack, vni: int) -> None:
    """Not even with the address of an egress node, whose answers are taken."""
    answer = udp(SERVICE, NODES["w1"], 4000, b"forged", source_port=PORT)
    with Capture(lab.nodes["g1"].machine, "eth0") as arrived:
        attack(lab, "w2", vxlan_packet("g2", "g1", vni, answer))
        _proof(lab)
        until(lambda: len(_to_gateway(arrived)) > 0, "what the kernel itself encapsulates", seconds=2)
        assert len(_to_gateway(arrived)) == 1


def test_a_process_with_raw_rights_cannot_take_over_a_pods_connection(lab: Lab) -> None:
    """A packet with the addresses and ports of a pod's connection, and the mark of the pod's way."""
    slot = plan("w2").layout.number(1)
    with lab.pods["twin"].datagrams() as datagrams, lab.witness() as witness:
        assert datagrams.seen_as() == SOURCES["g1"]
        forged = udp(lab.pods["twin"].address, SERVICE, PORT, b"forged", source_port=datagrams.port)
        for mark in (slot, 0):
            for priority in (TUNNEL_PRIORITY, 0):
                with contextlib.suppress(PermissionError):
                    send(lab.nodes["w2"].machine, forged, mark, priority)
        assert datagrams.seen_as() == SOURCES["g1"]
        until(lambda: len(witness.egress.packets(PORT)) > 1, "both of the pod's own", seconds=2)
        assert len(witness.egress.packets(PORT)) == 2


@pytest.mark.parametrize("inner", [NODES["w1"], "10.244.0.10", "172.16.0.7"])
def test_a_node_sends_by_its_own_inner_source_only(lab: Lab, inner: str) -> None:
    with lab.witness() as witness:
        forged = vxlan_packet("w2", "g1", VNI, udp(inner, SERVICE, PORT, b"forged"))
        lab.nodes["w2"].forge(forged)
        _proof(lab)
        until(lambda: len(witness.egress.packets(PORT)) > 0, "the node's own packet", seconds=2)
        assert len(witness.egress.packets(PORT)) == 1


def test_answers_come_from_egress_nodes_only(lab: Lab) -> None:
    """The answer fits a pod's connection: from a worker it does not arrive, from an egress node it does."""
    with lab.pods["bridged"].datagrams() as datagrams:
        datagrams.seen_as()
        for sender in ("w2", "g2"):
            answer = udp(SERVICE, NODES["w1"], datagrams.port, sender.encode(), source_port=PORT)
            lab.nodes[sender].forge(vxlan_packet(sender, "w1", ids.RETURN_VNI, answer))
        assert datagrams.sock.recv(100) == b"g2"


def test_what_is_no_ip_packet_and_no_tunnel_of_ours_is_dropped(lab: Lab) -> None:
    """Frames of another type, with reserved flags set, or of a network that is none of ours."""
    inner = udp(NODES["w2"], SERVICE, PORT, b"forged")
    good = vxlan_payload("w2", "g1", VNI, inner)
    bad = [
        good[:20] + b"\x81\x00" + b"\x00\x05\x08\x00" + inner,
        b"\x88" + good[1:],
        vxlan_payload("w2", "g1", VNI ^ 1, inner),
    ]
    with Capture(lab.nodes["g1"].machine, DEVICE) as capture, lab.witness() as witness:
        for payload in bad:
            lab.nodes["w2"].forge(udp(NODES["w2"], NODES["g1"], 4799, payload))
        _proof(lab)
        until(lambda: len(witness.egress.packets(PORT)) > 0, "the node's own packet", seconds=2)
        assert len(capture.packets()) == 1


@pytest.fixture
def synced(lab: Lab) -> Lab:
    """Return the first gateway's connections are synced between g1 and g2."""
    for name, node in lab.nodes.items():
        wanted = plan(name)
        first = replace(wanted.egress_ips[0], sync=True)
        node.ensure(replace(wanted, egress_ips=(first, *wanted.egress_ips[1:])))
    return lab


def test_a_local_user_of_a_partner_cannot_reach_connection_sync(synced: Lab) -> None:
    """Neither that of the other nodes nor that of the same node, to which the kernel loops multicast back."""
    partner = synced.nodes["g2"].machine
    with _listener(synced, "g1") as there, _listener(synced, "g2") as here:
        for loop in (False, True):
            as_local_user(partner, sent_by_device(ids.SYNC_DEVICE, SYNC, ids.SYNC_ADDRESS, loop))
        for address in ("127.0.0.1", NODES["g2"], NODES["g1"]):
            as_local_user(partner, sent_by_device("", (address, ids.SYNC_PORT)))
        # conntrackd itself, which runs as root, comes through.
        partner.inside(sent_by_device(ids.SYNC_DEVICE, SYNC, ids.SYNC_ADDRESS))
        assert there.recv(100) == b"forged"
        for listener in (there, here):
            with pytest.raises(TimeoutError):
                listener.recv(100)


def test_connection_sync_listens_to_partners_only(synced: Lab) -> None:
    with _listener(synced, "g1") as there:
        for node in ("w2", "g2"):
            inner = udp(ids.SYNC_ADDRESS, ids.SYNC_GROUP, ids.SYNC_PORT, node.encode())
            synced.nodes[node].forge(vxlan_packet(node, "g1", ids.SYNC_VNI, inner))
        assert there.recv(100) == b"g2"


def _listener(lab: Lab, node: str) -> socket.socket:
    """Return a socket that hears what conntrackd would."""
    machine = lab.nodes[node].machine
    sock = machine.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(0.5)
    sock.bind(("", ids.SYNC_PORT))
    index = machine.inside(lambda: socket.if_nametoindex(ids.SYNC_DEVICE))
    group = socket.inet_aton(ids.SYNC_GROUP) + socket.inet_aton("0.0.0.0") + index.to_bytes(4, "little")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    return sock


def _to_gateway(capture: Capture) -> list[Packet]:
    """Return the captured tunnel packets that the first gateway's master has not sent itself."""
    return [packet for packet in capture.packets(4799) if packet.source != NODES["g1"]]


def _proof(lab: Lab) -> None:
    """Have the kernel send what the attacks are copies of, for a pod of the same node: it arrives after them."""
    with lab.pods["twin"].datagrams() as datagrams:
        assert datagrams.seen_as() == SOURCES["g1"]
