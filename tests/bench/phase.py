"""When a failure strikes: after a heartbeat of the master, by a part of the interval that differs from run to run.

What is silent for a whole lease after the last heartbeat is silent for a lease less that part. Moments at random would
make of fifty runs a median that is several milliseconds off by chance alone; evenly spread ones do not.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from gateway_agent.lease.messages.keys import MAC_BYTES

from ..lab.lab import Lab
from ..lab.namespace import Namespace
from ..lab.waiting import NotInTime
from .failures import CLUSTER_PORT

GOLDEN_RATIO = 0.6180339887498949
"""Golden ratio: its multiples spread evenly over the interval, however many there are (Weyl, 1916)."""
BODY, CLAIMS = 6, 6
"""Positions in the array of an envelope and in that of a heartbeat: see :mod:`gateway_agent.lease.messages.wire`."""
VRRP = 112
"""Number of the protocol, <https://www.iana.org/assignments/protocol-numbers>."""
TIMEOUT_S = 5.0
_ETH_P_IP = 0x0800


def part(number: int) -> float:
    """Of an interval, for run ``number``: 0 to 1."""
    return (number + 0.5) * GOLDEN_RATIO % 1


@dataclass(frozen=True)
class Beats:
    """The heartbeats or adverts of one node, as another hears them on ``interface``."""

    machine: Namespace
    interface: str
    source: str
    """IPv4 address of the sender."""
    matches: Callable[[bytes], bool]
    """Predicate on an IPv4 packet."""

    def wait(self, then: float = 0.0) -> None:
        """Return ``then`` seconds after the next one. Raises :class:`tests.lab.waiting.NotInTime`."""
        with self._listening() as ear:
            deadline = time.monotonic() + TIMEOUT_S
            for packet in self._packets(ear, deadline):
                if packet[12:16] == socket.inet_aton(self.source) and self.matches(packet):
                    time.sleep(then)
                    return
        raise NotInTime(f"{self.source} sends nothing to {self.machine.name}")

    @contextmanager
    def _listening(self) -> Iterator[socket.socket]:
        ear = self.machine.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
        with ear:
            self.machine.inside(lambda: ear.bind((self.interface, _ETH_P_IP)))
            yield ear

    def _packets(self, ear: socket.socket, deadline: float) -> Iterator[bytes]:
        while (left := deadline - time.monotonic()) > 0:
            if select.select([ear], [], [], left)[0]:
                yield ear.recv(65535)


def renewals(lab: Lab, master: str) -> Beats:
    """Those heartbeats of our ``master`` that renew leases."""
    other = next(node for node in lab.nodes.values() if node.host.is_egress and node.name != master)
    return Beats(other.machine, "eth0", lab.nodes[master].host.ip, renews)


def adverts(lab: Lab, master: str, other: str, interface: str) -> Beats:
    """Keepalived's."""
    return Beats(
        lab.machines[other], interface, lab.nodes[master].host.egress_ip, lambda packet: packet[9] == VRRP
    )


def renews(packet: bytes) -> bool:
    header = (packet[0] & 15) * 4
    if packet[9] != socket.IPPROTO_UDP or struct.unpack_from("!H", packet, header + 2) != (CLUSTER_PORT,):
        return False
    body = msgspec.msgpack.decode(packet[header + 8 + MAC_BYTES :])[BODY]
    return body[0] == "h" and bool(body[CLAIMS])
