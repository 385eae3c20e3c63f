"""Datagrams that no lease daemon has sent now: real daemons count them and go on."""

from __future__ import annotations

import contextlib
import os
import socket

from gateway_agent.lease.messages.bodies import Hello, encode
from gateway_agent.lease.messages.keys import Key, Keyring
from gateway_agent.lease.messages.wire import Endpoint
from tests.lab.waiting import until

from .keeper_cluster import NODES, PORT, SECRET, Cluster, Node, cluster, shared

__all__ = ["cluster", "shared"]


def test_forged_replayed_truncated_and_random_datagrams_are_counted_and_ignored(cluster: Cluster) -> None:
    """By the address of a node, and by one of none: of that, a few datagrams a second are looked into."""
    master = cluster.settled()
    target = (NODES[master.name], PORT)
    feigned = next(name for name in NODES if name != master.name)
    peers = {name: address for name, address in NODES.items() if name != feigned}
    rightful = Endpoint(feigned, 7, Keyring(Key.parse(SECRET)), peers).seal(master.name, encode(Hello()))
    wrong = Keyring(Key.parse(b"not the key of the cluster"))
    forged = Endpoint(feigned, 7, wrong, peers).seal(master.name, encode(Hello()))
    bad = (forged, rightful[:-1], os.urandom(16) + rightful[16:], rightful[:9], bytes(200))
    before = master.counters()
    outsider = cluster.switch.socket(socket.AF_INET, socket.SOCK_DGRAM)
    insider = cluster.nodes[feigned].namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with contextlib.closing(outsider), contextlib.closing(insider):
        insider.bind((NODES[feigned], 0))
        for datagram in bad:
            insider.sendto(datagram, target)
        for datagram in (rightful, rightful, rightful[:9], bytes(200)):
            outsider.sendto(datagram, target)

    def counted() -> bool:
        after = master.counters()
        more = {name: after[name] - before[name] for name in before}
        strangers = more["wrong_address"] + more["unknown_address"]
        return (more["bad_mac"], more["truncated"], more["malformed"], strangers) == (3, 2, 2, 2)

    until(counted, f"each by its kind, more than {before}")
    assert cluster.settled() is master


def test_a_replay_from_the_right_address_is_counted_and_ignored(cluster: Cluster) -> None:
    master = cluster.settled()
    sender = next(node for node in cluster.nodes.values() if node is not master)
    recorded = _record(sender, master)
    before = master.counters()
    again = sender.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with contextlib.closing(again):
        again.bind((NODES[sender.name], 0))
        for _ in range(5):
            again.sendto(recorded, (NODES[master.name], PORT))
    until(lambda: master.counters()["replayed"] >= before["replayed"] + 5, "five replays counted")
    assert cluster.settled() is master


def _record(sender: Node, receiver: Node) -> bytes:
    """Return a genuine datagram, off the wire, once it has been delivered."""
    sniffer = receiver.namespace.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    with contextlib.closing(sniffer):
        sniffer.settimeout(5)
        while True:
            packet, link = sniffer.recvfrom(65535)
            header = (packet[0] & 15) * 4
            mine = socket.inet_ntoa(packet[12:16]) == NODES[sender.name] and link[2] == socket.PACKET_HOST
            if mine and packet[9] == socket.IPPROTO_UDP:
                return packet[header + 8 :]
