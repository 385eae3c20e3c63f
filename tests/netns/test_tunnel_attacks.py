"""Attacks on the tunnels: by users without rights on nodes, and by nodes in another node's name."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from dataclasses import replace

import pytest

from cni.kernel import ids
from tests.lab.capture import Capture
from tests.lab.local_user import as_local_user
from tests.lab.packets import send, udp
from tests.lab.waiting import until

from .datapath_lab import FIRST, NODES, PORT, SERVICE, TUNNEL_MARK, Lab, plan, vxlan_packet, vxlan_payload

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


def test_a_local_user_cannot_send_into_a_tunnel_device(lab: Lab) -> None:
    with Capture(lab.nodes["g1"].machine, "eth0") as capture:
        for device in (DEVICE, ids.BACK_DEVICE):
            as_local_user(lab.nodes["w2"].machine, sent_by_device(device, (SERVICE, PORT)))
            as_local_user(lab.nodes["w2"].machine, sent_by_device(device, (NODES["g1"], PORT)))
        _proof(lab)
        until(lambda: len(capture.packets(4799)) > 0, "what the kernel itself encapsulates", seconds=2)
        assert len(capture.packets(4799)) == 1


@pytest.mark.parametrize("inner", [NODES["w1"], "10.244.0.10", "172.16.0.7"])
def test_a_node_sends_by_its_own_inner_source_only(lab: Lab, inner: str) -> None:
    with lab.witness() as witness:
        forged = vxlan_packet("w2", "g1", VNI, udp(inner, SERVICE, PORT, b"forged"))
        send(lab.nodes["w2"].machine, forged, TUNNEL_MARK)
        _proof(lab)
        until(lambda: len(witness.egress.packets(PORT)) > 0, "the node's own packet", seconds=2)
        assert len(witness.egress.packets(PORT)) == 1


def test_answers_come_from_egress_nodes_only(lab: Lab) -> None:
    """The answer fits a pod's connection: from a worker it does not arrive, from an egress node it does."""
    with lab.pods["bridged"].datagrams() as datagrams:
        datagrams.seen_as()
        for sender in ("w2", "g2"):
            answer = udp(SERVICE, NODES["w1"], datagrams.port, sender.encode(), source_port=PORT)
            send(lab.nodes[sender].machine, vxlan_packet(sender, "w1", ids.BACK_VNI, answer), TUNNEL_MARK)
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
            send(lab.nodes["w2"].machine, udp(NODES["w2"], NODES["g1"], 4799, payload), TUNNEL_MARK)
        _proof(lab)
        until(lambda: len(witness.egress.packets(PORT)) > 0, "the node's own packet", seconds=2)
        assert len(capture.packets()) == 1


@pytest.fixture
def synced(lab: Lab) -> Lab:
    """The first gateway's connections are synced between g1 and g2."""
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
            send(synced.nodes[node].machine, vxlan_packet(node, "g1", ids.SYNC_VNI, inner), TUNNEL_MARK)
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


def _proof(lab: Lab) -> None:
    """Send the well-made packet that the attacks are copies of, as the kernel does: it arrives after them."""
    inner = udp(NODES["w2"], SERVICE, PORT, b"proof")
    send(lab.nodes["w2"].machine, vxlan_packet("w2", "g1", VNI, inner), TUNNEL_MARK)
