"""A selected pod's second network that the node only bridges: what passes, and what the agent says of it."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Iterator

import pytest

from cni.kernel import ids
from tests.lab.capture import Capture
from tests.lab.namespace import REPOSITORY, Namespace
from tests.lab.packets import mac_of, send_frame, udp
from tests.lab.waiting import until

from .datapath_lab import SERVICE, TAG, Lab
from .datapath_traffic import PORT

OWN, PEER = "192.168.77.2", "192.168.77.3"
PREFIX = "192.168.77.0/24"
# In a process of its own: psutil looks at the namespace of the main thread.
READ = """
import json, sys
from gateway_agent.policy.pods import pod_sources as sources
from gateway_agent.adapters.kernel import interfaces
facts = interfaces.read((), ["vsecond"])
print(json.dumps([problem.message for problem in sources.bridged_only({"prod/pod": ["vsecond"]}, facts)]))
"""


@pytest.fixture
def peer(lab: Lab) -> Iterator[Namespace]:
    """Yield a machine on the same bridge as the pod's second interface, which the node has no address on."""
    pod, other = lab.pods["bridged"], Namespace("egwdp-peer")
    node = pod.node.machine
    other.create()
    try:
        node.sysctl({"net/bridge/bridge-nf-call-iptables": "1"})
        node.ip(
            "link add br-second type bridge",
            "link set br-second up",
            f"link add vsecond type veth peer name net1 netns {pod.machine.name}",
            f"link add vpeer type veth peer name eth0 netns {other.name}",
            "link set vsecond master br-second up",
            "link set vpeer master br-second up",
        )
        pod.machine.ip(f"address add {OWN}/24 dev net1", "link set net1 up")
        other.ip(f"address add {PEER}/24 dev eth0", "link set eth0 up")
        node.run("ip", "link", "set", "vsecond", "group", str(ids.GROUP_BASE + TAG))
        yield other
    finally:
        node.sysctl({"net/bridge/bridge-nf-call-iptables": "1"})
        node.ip("link del br-second", "link del vsecond", "link del vpeer")
        other.delete()


def problems(machine: Namespace) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return list(json.loads(machine.run(sys.executable, "-c", READ, environment=environment)))


def dropped(lab: Lab, chain: str) -> int:
    """Return how many packets the chain of the pod's node has dropped."""
    text = lab.pods["bridged"].node.machine.run("nft", "list", "chain", "inet", ids.NFT_NODE_INET, chain)
    return sum(map(int, re.findall(r"counter packets (\d+) bytes \d+ drop", text)))


def send_by_bridge(lab: Lab, peer: Namespace, destination: str, source_port: int = 5000) -> None:
    """Have the pod send a packet to the other machine's MAC."""
    packet = udp(OWN, destination, PORT, b"by the bridge", source_port=source_port)
    send_frame(lab.pods["bridged"].machine, "net1", mac_of(peer, "eth0"), packet)


def test_a_network_without_a_route_is_cut_off_and_named(lab: Lab, peer: Namespace) -> None:
    node = lab.pods["bridged"].node.machine
    with peer.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.settimeout(2)
        listener.bind((PEER, PORT))
        send_by_bridge(lab, peer, PEER)
        until(lambda: dropped(lab, "own_source") == 1, "the packet is dropped", seconds=2)
        (said,) = problems(node)
        assert "prod/pod" in said
        node.ip(f"route add {PREFIX} dev br-second")
        assert problems(node) == []
        send_by_bridge(lab, peer, PEER)
        assert listener.recv(100) == b"by the bridge"
        assert dropped(lab, "own_source") == 1


def test_what_a_policy_leads_through_a_gateway_does_not_leave_by_the_bridge(
    lab: Lab, peer: Namespace
) -> None:
    """The second network may have a router of its own: by it, the pod would leave by another address."""
    lab.pods["bridged"].node.machine.ip(f"route add {PREFIX} dev br-second")
    with Capture(peer, "eth0") as capture:
        send_by_bridge(lab, peer, SERVICE, source_port=5001)
        until(lambda: dropped(lab, "out_1") == 1, "the packet is dropped", seconds=2)
        send_by_bridge(lab, peer, PEER, source_port=5002)
        until(lambda: len(capture.packets(PORT)) > 0, "what no policy speaks of", seconds=2)
        assert {packet.source_port for packet in capture.packets(PORT)} == {5002}


def test_frames_that_no_hook_of_ip_sees_are_no_problem(lab: Lab, peer: Namespace) -> None:
    node = lab.pods["bridged"].node.machine
    node.sysctl({"net/bridge/bridge-nf-call-iptables": "0"})
    assert problems(node) == []
