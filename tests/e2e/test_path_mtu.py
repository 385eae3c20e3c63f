"""A link outside becomes narrower while a pod sends: what its router says reaches the pod through the gateway."""

from __future__ import annotations

import itertools
import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..lab import documents, topology
from ..lab.capture import Capture
from ..lab.lab import SELECTED, Lab
from ..lab.pod import Pod
from ..lab.topology import OUTSIDE, OUTSIDE6
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

VIRTUAL_GATEWAY, VIRTUAL_PODS = "virtual", {"app": "virtual"}
ADDRESS = "172.16.0.50"
ADDRESS6 = topology.beside(ADDRESS)
DESTINATIONS = ["203.0.113.0/24", "2001:db8:113::/64"]
WIDE, NARROW = 1500, 1300
NUMBERS = itertools.count(1)
LINE = "x" * 8000
FRAGMENTATION_NEEDED = (3, 4)
"""Type and code of the ICMP message (RFC 792)."""
PACKET_TOO_BIG = (2, 0)
"""Type and code of the ICMPv6 message (RFC 4443, section 3.2)."""


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    machines = topology.dual_stack()
    objects = [
        *documents.basic_mode(machines.egress_interface, GATEWAY),
        documents.virtual_gateway(VIRTUAL_GATEWAY, [ADDRESS, ADDRESS6]),
        documents.policy("virtual", VIRTUAL_GATEWAY, VIRTUAL_PODS, DESTINATIONS),
    ]
    with settled("test_path_mtu", machines, objects=objects) as made:
        until(lambda: sorted(masters(made).values()) == ["g1", "g2", "g3"], "one address on each node", 20)
        # The service sends small packets, and still says that it takes large ones.
        made.machines["outside"].ip(
            f"route replace default via 203.0.113.1 mtu {NARROW} advmss {WIDE - 40}",
            f"route replace default via 2001:db8:113::1 mtu {NARROW} advmss {WIDE - 60}",
        )
        yield made


def masters(lab: Lab) -> dict[str, str]:
    """By address, as the worker sees them; that of basic mode is empty."""
    listed = lab.nodes["w1"].agent.status()["egressIPs"]
    return {egress["ip"] if egress["gateway"] != GATEWAY else "": egress["master"] for egress in listed}


@contextmanager
def narrow(lab: Lab) -> Iterator[None]:
    router = lab.machines["router"]
    router.ip(f"link set eth9 mtu {NARROW}")
    try:
        yield
    finally:
        router.ip(f"link set eth9 mtu {WIDE}")


def path_mtu(pod: Pod, target: str) -> int:
    """Return what the pod's kernel knows of the way to an address; 0 if it knows no more than its interface's MTU."""
    [route] = json.loads(pod.machine.run("ip", "-j", "route", "get", target))
    return int(next((metric["mtu"] for metric in route.get("metrics", []) if "mtu" in metric), 0))


class Errors:
    """The messages of ICMP that reach a pod and say how large a packet may be."""

    def __init__(self, pod: Pod, target: str) -> None:
        self._six = ":" in target
        family = socket.AF_INET6 if self._six else socket.AF_INET
        protocol = socket.IPPROTO_ICMPV6 if self._six else socket.IPPROTO_ICMP
        self._socket = pod.machine.socket(family, socket.SOCK_RAW, protocol)
        self._socket.setblocking(False)

    def sizes(self) -> Iterator[int]:
        """Yield the size in each message until now."""
        while True:
            try:
                data = self._socket.recv(2000)
            except BlockingIOError:
                return
            # A raw socket of IPv4 gets the IP header too.
            message = data if self._six else data[(data[0] & 15) * 4 :]
            if (message[0], message[1]) == (PACKET_TOO_BIG if self._six else FRAGMENTATION_NEEDED):
                yield int(struct.unpack_from("!I", message, 4)[0]) & 0xFFFF

    def close(self) -> None:
        self._socket.close()


def from_router(capture: Capture, target: str) -> bool:
    """Return whether the router has sent a message of ICMP."""
    router, protocol = "172.16.0.1", socket.IPPROTO_ICMP
    if ":" in target:
        router, protocol = topology.beside(router), socket.IPPROTO_ICMPV6
    return any((packet.source, packet.protocol) == (router, protocol) for packet in capture.packets())


@pytest.mark.parametrize("place", ["worker", "master"])
@pytest.mark.parametrize(
    ("labels", "target", "shown"),
    [(BACKEND, OUTSIDE, ""), (VIRTUAL_PODS, OUTSIDE, ADDRESS), (VIRTUAL_PODS, OUTSIDE6, ADDRESS6)],
    ids=["basic", "virtual IPv4", "virtual IPv6"],
)
def test_the_pods_path_mtu_follows_and_the_transfer_goes_on(
    lab: Lab, labels: dict[str, str], target: str, shown: str, place: str
) -> None:
    master = masters(lab)[shown]
    node = lab.nodes["w1" if place == "worker" else master]
    pod = node.pod(f"sender-{next(NUMBERS)}", labels)
    errors = Errors(pod, target)
    with lab.capture(master, "eth1") as capture:
        connection = pod.connect(SELECTED, address=target)
        assert connection.answer.address == (shown or lab.nodes[master].host.egress_ip)
        assert connection.echo(LINE) == LINE
        assert path_mtu(pod, target) == 0
        with narrow(lab):
            for _ in range(5):
                assert connection.echo(LINE) == LINE
            assert path_mtu(pod, target) == NARROW
        connection.close()
        assert {*errors.sizes()} == {NARROW}
        until(lambda: from_router(capture, target), "the message came to the master by the wire")
    errors.close()
    pod.stop()
