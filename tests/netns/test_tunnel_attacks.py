"""Attacks on the tunnels: by users without rights on nodes, and by nodes in another node's name.

In each IP version; where the versions inside and outside the tunnel meet in one rule, in all four combinations.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable

import pytest

from cni.kernel import ids
from tests.lab import vxlan
from tests.lab.capture import Capture, Packet
from tests.lab.local_user import as_local_user, sent_by_device
from tests.lab.packets import mac_of, send, udp
from tests.lab.waiting import until

from .datapath_lab import NODES, v6
from .datapath_traffic import PORT, family_of
from .dual_stack_lab import EVERY, NAME, SAME, Tunnel

EVERY_TUNNEL = pytest.mark.parametrize("versions", EVERY, ids=NAME, indirect=True)


def sent_plainly(address: str) -> Callable[[bytes], None]:
    """Return a function that sends a payload to the tunnel port by an ordinary socket; it may be refused."""

    def go(payload: bytes) -> None:
        with (
            socket.socket(family_of(address), socket.SOCK_DGRAM) as sock,
            contextlib.suppress(PermissionError),
        ):
            sock.sendto(payload, (address, 4799))

    return go


@pytest.mark.parametrize("node", ["w2", "g2", "g1"])
@pytest.mark.parametrize(
    ("versions", "form"), [(SAME[0], "{}"), (SAME[0], "::ffff:{}"), (SAME[1], "{}")], indirect=["versions"]
)
def test_a_local_user_cannot_speak_vxlan_to_a_gateway(tunnel: Tunnel, node: str, form: str) -> None:
    lab = tunnel.lab
    forged = tunnel.payload("w2", "g1", tunnel.forged("w2"))
    to = form.format(tunnel.address("g1"))
    with lab.witness() as witness:
        as_local_user(lab.nodes[node].machine, lambda: sent_plainly(to)(forged))
        _proof(tunnel)
        until(lambda: len(witness.egress.packets(PORT)) > 0, "what the kernel itself encapsulates", seconds=2)
        assert len(witness.egress.packets(PORT)) == 1


def test_a_local_user_cannot_have_the_priority_of_the_kernels_own_packets(tunnel: Tunnel) -> None:
    lab, to = tunnel.lab, (tunnel.address("g1"), 4799)
    forged = tunnel.payload("w2", "g1", tunnel.forged("w2"))
    priority = struct.pack("=i", vxlan.TUNNEL_PRIORITY)

    def attack() -> None:
        with socket.socket(family_of(to[0]), socket.SOCK_DGRAM) as sock:
            with contextlib.suppress(PermissionError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, priority)
            with contextlib.suppress(PermissionError):
                sock.sendto(forged, to)
            # With one packet only (Linux 6.14).
            with contextlib.suppress(OSError):
                option = (socket.SOL_SOCKET, socket.SO_PRIORITY, priority)
                sock.sendmsg([forged], [option], 0, to)

    # Without the looks at the socket of a process: the priority alone must do.
    lab.nodes["w2"].nft(
        f"flush chain inet {ids.NFT_NODE_INET} tunnel_process\ndelete table netdev {ids.NFT_FENCE}\n"
    )
    with Capture(lab.nodes["g1"].machine, "eth0") as arrived:
        as_local_user(lab.nodes["w2"].machine, attack)
        _proof(tunnel)
        until(lambda: len(_to_gateway(tunnel, arrived)) > 0, "what the kernel itself encapsulates", seconds=2)
        assert len(_to_gateway(tunnel, arrived)) == 1


def test_a_local_user_cannot_send_into_a_tunnel_device(tunnel: Tunnel) -> None:
    lab = tunnel.lab
    user = lab.nodes["w2"].machine
    source = {4: "", 6: v6(NODES["w2"])}[tunnel.inner]
    with Capture(lab.nodes["g1"].machine, "eth0") as arrived:
        for device in (tunnel.device, ids.RETURN_DEVICE):
            # A multicast address needs no route.
            for to in (tunnel.service, tunnel.address("g1"), ALL[tunnel.inner]):
                if family_of(to) == family_of(tunnel.service):
                    as_local_user(user, sent_by_device(device, (to, PORT), source))
        _proof(tunnel)
        until(lambda: len(_to_gateway(tunnel, arrived)) > 0, "what the kernel itself encapsulates", seconds=2)
        assert len(_to_gateway(tunnel, arrived)) == 1


ALL = {4: "224.0.0.1", 6: "ff02::1"}
"""Multicast addresses of all nodes on a link."""


@pytest.mark.parametrize("attack", [*vxlan.PROCESS, vxlan.into_the_device])
@pytest.mark.parametrize("node", ["w2", "g2"])
def test_a_process_with_raw_rights_cannot_speak_vxlan_to_a_gateway(
    tunnel: Tunnel, node: str, attack: vxlan.Sender
) -> None:
    """It may set the priority of the kernel's own packets, write whole frames, and send into the tunnel's device."""
    lab = tunnel.lab
    machine, gateway = lab.nodes[node].machine, lab.nodes["g1"].machine
    with lab.witness() as witness, Capture(gateway, "eth0") as arrived:
        attack(machine, tunnel.packet(node, "g1", tunnel.forged(node)), mac_of(gateway, "eth0"))
        _proof(tunnel)
        until(lambda: len(witness.egress.packets(PORT)) > 0, "what the kernel itself encapsulates", seconds=2)
        assert len(witness.egress.packets(PORT)) == 1
        assert len(_to_gateway(tunnel, arrived)) == 1


@pytest.mark.parametrize("attack", vxlan.PROCESS)
@pytest.mark.parametrize("vni", [ids.RETURN_VNI, ids.SYNC_VNI])
def test_a_process_with_raw_rights_on_a_worker_forges_no_answers(
    tunnel: Tunnel, attack: vxlan.Sender, vni: int
) -> None:
    """Not even with the address of an egress node, whose answers are taken."""
    answer = udp(tunnel.service, tunnel.source("w1"), 4000, b"forged", source_port=PORT)
    machine, gateway = tunnel.lab.nodes["w2"].machine, tunnel.lab.nodes["g1"].machine
    with Capture(gateway, "eth0") as arrived:
        attack(machine, tunnel.packet("g2", "g1", answer, vni), mac_of(gateway, "eth0"))
        _proof(tunnel)
        until(lambda: len(_to_gateway(tunnel, arrived)) > 0, "what the kernel itself encapsulates", seconds=2)
        assert len(_to_gateway(tunnel, arrived)) == 1


def test_a_process_with_raw_rights_cannot_take_over_a_pods_connection(tunnel: Tunnel) -> None:
    """A packet with the addresses and ports of a pod's connection, and the mark of the pod's way."""
    lab, planned = tunnel.lab, tunnel.plan("w2")
    (slot,) = (egress.slot for egress in planned.egress_ips if egress.id == tunnel.identity)
    with lab.pods["twin"].datagrams(tunnel.service) as datagrams, lab.witness() as witness:
        assert datagrams.seen_as() == tunnel.shown
        forged = udp(tunnel.pod("twin"), tunnel.service, PORT, b"forged", source_port=datagrams.port)
        for mark in (planned.layout.number(slot), 0):
            for priority in (vxlan.TUNNEL_PRIORITY, 0):
                with contextlib.suppress(PermissionError):
                    send(lab.nodes["w2"].machine, forged, mark, priority)
        assert datagrams.seen_as() == tunnel.shown
        until(lambda: len(witness.egress.packets(PORT)) > 1, "both of the pod's own", seconds=2)
        assert len(witness.egress.packets(PORT)) == 2


INNER: dict[str, Callable[[Tunnel], str]] = {
    "another node's": lambda tunnel: tunnel.source("w1"),
    "a pod's": lambda tunnel: tunnel.pod("bridged"),
    "the gateway's": lambda tunnel: tunnel.shown,
}


@EVERY_TUNNEL
@pytest.mark.parametrize("inner", INNER)
def test_a_node_sends_by_its_own_inner_source_only(tunnel: Tunnel, inner: str) -> None:
    with tunnel.lab.witness() as witness:
        forged = udp(INNER[inner](tunnel), tunnel.service, PORT, b"forged")
        tunnel.lab.nodes["w2"].forge(tunnel.packet("w2", "g1", forged))
        _proof(tunnel)
        until(lambda: len(witness.egress.packets(PORT)) > 0, "the node's own packet", seconds=2)
        assert len(witness.egress.packets(PORT)) == 1


@EVERY_TUNNEL
def test_answers_come_from_egress_nodes_only(tunnel: Tunnel) -> None:
    """The answer fits a pod's connection: from a worker it does not arrive, from an egress node it does."""
    with tunnel.lab.pods["bridged"].datagrams(tunnel.service) as datagrams:
        until(datagrams.answered, "there is a connection")
        for sender in ("w2", "g2"):
            answer = udp(
                tunnel.service, tunnel.source("w1"), datagrams.port, sender.encode(), source_port=PORT
            )
            tunnel.lab.nodes[sender].forge(tunnel.packet(sender, "w1", answer, ids.RETURN_VNI))
        assert datagrams.sock.recv(100) == b"g2"


@EVERY_TUNNEL
def test_what_is_no_ip_packet_and_no_tunnel_of_ours_is_dropped(tunnel: Tunnel) -> None:
    """Frames of another type, with reserved flags set, or of a network that is none of ours."""
    lab, inner = tunnel.lab, tunnel.forged("w2")
    good = tunnel.payload("w2", "g1", inner)
    other = b"\x08\x00" if tunnel.inner == 6 else b"\x86\xdd"
    bad = [
        good[:20] + b"\x81\x00" + b"\x00\x05" + good[20:],
        good[:20] + other + inner,
        b"\x88" + good[1:],
        tunnel.payload("w2", "g1", inner, tunnel.vni ^ 1),
    ]
    with Capture(lab.nodes["g1"].machine, tunnel.device) as capture, lab.witness() as witness:
        for payload in bad:
            lab.nodes["w2"].forge(udp(tunnel.address("w2"), tunnel.address("g1"), 4799, payload))
        _proof(tunnel)
        until(lambda: len(witness.egress.packets(PORT)) > 0, "the node's own packet", seconds=2)
        assert len(capture.packets()) == 1


def _to_gateway(tunnel: Tunnel, capture: Capture) -> list[Packet]:
    """Return the captured tunnel packets that the gateway's master has not sent itself."""
    return [packet for packet in capture.packets(4799) if packet.source != tunnel.address("g1")]


def _proof(tunnel: Tunnel) -> None:
    """Have the kernel send what the attacks are copies of, for a pod of the same node: it arrives after them."""
    with tunnel.lab.pods["twin"].datagrams(tunnel.service) as datagrams:
        assert datagrams.seen_as() == tunnel.shown
