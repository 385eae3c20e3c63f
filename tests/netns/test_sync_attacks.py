"""Attacks on connection sync: by users without rights on a partner, and by nodes that are none."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from cni.kernel import ids
from tests.lab.local_user import as_local_user, sent_by_device
from tests.lab.packets import udp

from .datapath_lab import NODES, Lab
from .dual_stack_lab import Tunnel

SYNC = (ids.SYNC_GROUP, ids.SYNC_PORT)


@pytest.fixture
def synced(tunnel: Tunnel) -> Tunnel:
    """Return the tunnel; the first gateway's connections are synced between g1 and g2."""
    for name, node in tunnel.lab.nodes.items():
        wanted = tunnel.plan(name)
        first = replace(wanted.egress_ips[0], sync=True)
        node.ensure(replace(wanted, egress_ips=(first, *wanted.egress_ips[1:])))
    return tunnel


def test_a_local_user_of_a_partner_cannot_reach_connection_sync(synced: Tunnel) -> None:
    """Neither that of the other nodes nor that of the same node, to which the kernel loops multicast back."""
    partner = synced.lab.nodes["g2"].machine
    with _listener(synced.lab, "g1") as there, _listener(synced.lab, "g2") as here:
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


def test_connection_sync_listens_to_partners_only(synced: Tunnel) -> None:
    with _listener(synced.lab, "g1") as there:
        for node in ("w2", "g2"):
            inner = udp(ids.SYNC_ADDRESS, ids.SYNC_GROUP, ids.SYNC_PORT, node.encode())
            synced.lab.nodes[node].forge(synced.packet(node, "g1", inner, ids.SYNC_VNI))
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
