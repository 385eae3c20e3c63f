"""Pods with raw sockets forge source addresses; the capture at the outside server is the witness.

The table of cases is in tests/netns/test_forged_sources.py. Here the agents and the plugin install the rules, and other
pods of the same nodes go on working.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from ..lab import documents, topology
from ..lab.lab import SELECTED, Lab
from ..lab.packets import ACK, SYN, mac_of, send_frame, tcp, udp
from ..lab.pod import Pod
from ..lab.topology import OUTSIDE, VIRTUAL
from ..lab.waiting import until
from .conftest import BACKEND, settled

PORT = 7000
"""The attacking pod's own port, of which the forged question asks."""
FORGED = 9100
"""Port of the outside server to which nothing but forged packets goes."""
HONEST = 9101
"""Port to which packets go that are made as the forged ones, with the sender's own address."""


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with settled(
        "test_forged_sources", topology.separate(1, 2), objects=documents.virtual_ip([VIRTUAL])
    ) as made:
        yield made


@pytest.fixture(params=["bridge", "ptp"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["w1", "g1", "g2"])
def node(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def forge(lab: Lab, pod: Pod, node: str, packet: bytes) -> None:
    """Send a packet to the node's end of the pod's network."""
    interface = "cni0" if pod.network.name.startswith("bridge") else pod.host_interface
    send_frame(pod.machine, "eth0", mac_of(lab.nodes[node].machine, interface), packet)


def arrived(lab: Lab, node: str, attack: Callable[[], None], senders: Sequence[Pod]) -> set[str]:
    """Return the sources of the packets to :data:`FORGED` that reached the outside server.

    The last packet of each sender has its own address: it is seen, so the capture would see a forged one too.
    """
    with lab.capture() as capture:
        attack()
        for number, sender in enumerate(senders):
            forge(lab, sender, node, udp(sender.address, OUTSIDE, HONEST + number))
            until(lambda n=number: capture.packets(HONEST + n), "a packet after the forged ones")  # type: ignore[misc]
        return capture.sources(FORGED)


def test_forged_questions_lead_no_selected_pod_past_its_gateway(lab: Lab, node: str, kind: str) -> None:
    client = lab.nodes[node].pod(f"client-{kind}", BACKEND, kind)
    other = lab.nodes[node].pod(f"other-{kind}", {}, kind)
    until(lambda: client.request(SELECTED, 0.5).address == VIRTUAL, "the gateway serves the pod", 10)

    def attack() -> None:
        # The pod itself, then an accomplice on the same node.
        for number, sender in enumerate((client, other)):
            own = PORT + number
            forge(lab, sender, node, udp(OUTSIDE, client.address, own, source_port=FORGED))
            forge(lab, client, node, udp(client.address, OUTSIDE, FORGED, source_port=own))
            forge(lab, sender, node, tcp(OUTSIDE, client.address, own, SYN, source_port=FORGED))
            answer = tcp(client.address, OUTSIDE, FORGED, SYN | ACK, acknowledged=2, source_port=own)
            forge(lab, client, node, answer)

    try:
        # What counts as a new connection may go by the gateway.
        assert arrived(lab, node, attack, (client, other)) <= {VIRTUAL}
        assert client.request(SELECTED).address == VIRTUAL
    finally:
        client.stop()
        other.stop()


def test_what_a_selected_pod_sends_from_another_address_goes_nowhere(lab: Lab, node: str, kind: str) -> None:
    """On a worker, on the master and on a standby: as a pod's own address or as that of another machine."""
    client = lab.nodes[node].pod(f"liar-{kind}", BACKEND, kind)
    until(lambda: client.request(SELECTED, 0.5).address == VIRTUAL, "the gateway serves the pod", 10)

    def attack() -> None:
        for source in ("10.244.99.7", "10.99.0.7", "198.51.100.7", OUTSIDE):
            forge(lab, client, node, udp(source, OUTSIDE, FORGED))

    try:
        assert arrived(lab, node, attack, (client,)) == set()
    finally:
        client.stop()


def test_no_pod_sends_with_a_virtual_address_or_a_nodes(lab: Lab, node: str, kind: str) -> None:
    pod = lab.nodes[node].pod(f"spoofer-{kind}", {}, kind)
    others = (one.host.internal_ip for one in lab.nodes.values())
    reserved = [VIRTUAL, *others, lab.nodes[node].host.egress_ip]

    def attack() -> None:
        for source in reserved:
            forge(lab, pod, node, udp(source, OUTSIDE, FORGED))

    try:
        assert arrived(lab, node, attack, (pod,)) == set()
    finally:
        pod.stop()


def test_a_pod_with_a_virtual_address_as_its_own_sends_nothing_with_it(lab: Lab, kind: str) -> None:
    """Give a pod the address and its node a route to it, as a network plugin does that is asked for an address."""
    node = lab.nodes["w1"]
    pod = node.pod(f"squatter-{kind}", {}, kind)
    interface = "cni0" if kind == "bridge" else pod.host_interface
    pod.machine.ip(f"address add {VIRTUAL}/32 dev eth0")
    node.machine.ip(f"route add {VIRTUAL}/32 dev {interface}")

    def attack() -> None:
        forge(lab, pod, node.name, udp(VIRTUAL, OUTSIDE, FORGED))

    try:
        assert arrived(lab, node.name, attack, (pod,)) == set()
    finally:
        node.machine.ip(f"route del {VIRTUAL}/32 dev {interface}")
        pod.machine.ip(f"address del {VIRTUAL}/32 dev eth0")
        pod.stop()
