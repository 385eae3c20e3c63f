"""Nodes with two links to other nodes: what comes by the one that no packet back would take arrives all the same."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator

import pytest

from cni.kernel import ids
from cni.plan import Plan, PlanNode
from tests.lab.namespace import REPOSITORY, CommandFailed
from tests.lab.packets import mac_of, send, send_frame, udp
from tests.lab.waiting import until

from .datapath_lab import FIRST, KEEPER_PORT, NODES, SERVICE, Lab, Node, plan, v6, vxlan_packet
from .datapath_traffic import PORT

G1, W2 = NODES["g1"], NODES["w2"]
VNI = ids.vni(FIRST)
SECOND = "10.0.0.101"
# In a process of its own: psutil looks at the namespace of the main thread.
READ = """
import json, sys
from gateway_agent.policy.pods import pod_sources as sources
from gateway_agent.adapters.kernel import interfaces
nodes, pods = json.loads(sys.argv[1])
print(json.dumps(sources.node_links(interfaces.read((), pods, nodes))))
"""


def of_family(address: str, family: int) -> str:
    return v6(address) if family == 6 else address


def node_links(lab: Lab, node: Node, family: int) -> tuple[str, ...]:
    """Return the links to other nodes that an agent on the node finds."""
    nodes = [of_family(address, family) for name, address in NODES.items() if name != node.name]
    pods = [pod.host for pod in lab.pods.values() if pod.node is node]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    said = json.dumps([nodes, pods])
    return tuple(json.loads(node.machine.run(sys.executable, "-c", READ, said, environment=environment)))


def planned(lab: Lab, family: int) -> Plan:
    nodes = tuple(PlanNode(name, of_family(address, family)) for name, address in sorted(NODES.items()))
    return plan("g1", nodes=nodes, node_links=node_links(lab, lab.nodes["g1"], family))


def into_one_subnet(lab: Lab) -> None:
    lab.nodes["g1"].machine.ip(
        f"address add {SECOND}/24 dev eth7", f"address add {v6(SECOND)}/64 dev eth7 nodad"
    )


def by_two_next_hops(lab: Lab) -> None:
    """As where each node has two routers (ECMP), which IPv6 chooses from by the packet."""
    for family in (4, 6):
        router = "fe80::254" if family == 6 else "10.0.0.254"
        hops = " ".join(f"nexthop via {router} dev {device} onlink" for device in ("eth0", "eth7"))
        lab.nodes["g1"].machine.ip(f"route add {of_family(W2, family)} {hops}")


LINKS: dict[str, Callable[[Lab], None]] = {"one subnet": into_one_subnet, "two next hops": by_two_next_hops}


@pytest.fixture(params=LINKS)
def links(lab: Lab, request: pytest.FixtureRequest) -> Iterator[None]:
    """Two links of g1, eth0 and eth7, to the other nodes."""
    machine = lab.nodes["g1"].machine
    lab.outside.ip(
        f"link add g1-eth7 type veth peer name eth7 netns {machine.name}", "link set g1-eth7 master br-u up"
    )
    try:
        machine.ip("link set eth7 up")
        machine.sysctl({"net/ipv4/conf/eth7/rp_filter": "0", "net/ipv4/conf/all/rp_filter": "0"})
        LINKS[request.param](lab)
        yield
    finally:
        lab.outside.ip("link del g1-eth7")
        for family in (4, 6):
            with contextlib.suppress(CommandFailed):
                machine.ip(f"route del {of_family(W2, family)}")
        # The others may have learned the second link's MAC.
        for other in (*(node.machine for node in lab.nodes.values()), lab.outside):
            other.ip("neigh flush all")


@pytest.mark.usefixtures("links")
@pytest.mark.parametrize("family", [4, 6])
def test_a_lease_daemon_is_reached_by_both_links(lab: Lab, family: int) -> None:
    g1 = lab.nodes["g1"]
    g1.ensure(planned(lab, family))
    source, target = of_family(W2, family), of_family(G1, family)
    with g1.machine.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.settimeout(2)
        daemon.bind((target, KEEPER_PORT))
        for device in ("eth0", "eth7"):
            said = f"by {device}".encode()
            send_frame(
                lab.outside,
                f"g1-{device}",
                mac_of(g1.machine, device),
                udp(source, target, KEEPER_PORT, said),
            )
            assert daemon.recv(100) == said


@pytest.mark.usefixtures("links")
def test_a_tunnel_takes_packets_by_both_links(lab: Lab) -> None:
    g1 = lab.nodes["g1"]
    g1.ensure(planned(lab, 4))
    with lab.witness() as witness:
        for number, device in enumerate(("eth0", "eth7"), 1):
            inner = udp(W2, SERVICE, PORT, source_port=5000 + number)
            send_frame(
                lab.outside, f"g1-{device}", mac_of(g1.machine, device), vxlan_packet("w2", "g1", VNI, inner)
            )
        until(lambda: len(witness.egress.packets(PORT)) == 2, "both packets outside", seconds=2)


@pytest.mark.usefixtures("links")
@pytest.mark.parametrize("pod", ["onmaster"])
def test_a_pod_gets_in_by_neither(lab: Lab, pod: str) -> None:
    """It sends with a node's address to the lease daemon and to the tunnel port."""
    g1, attacker = lab.nodes["g1"], lab.pods[pod]
    g1.ensure(planned(lab, 4))
    with (
        lab.witness() as witness,
        g1.machine.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon,
    ):
        daemon.settimeout(2)
        daemon.bind((G1, KEEPER_PORT))
        send(attacker.machine, udp(W2, G1, KEEPER_PORT, b"attack"))
        send(attacker.machine, vxlan_packet("w2", "g1", VNI, udp(W2, SERVICE, PORT, source_port=5001)))
        send_frame(lab.outside, "g1-eth7", mac_of(g1.machine, "eth7"), udp(W2, G1, KEEPER_PORT, b"true"))
        assert daemon.recv(100) == b"true"
        last = vxlan_packet("w2", "g1", VNI, udp(W2, SERVICE, PORT, source_port=5002))
        send_frame(lab.outside, "g1-eth7", mac_of(g1.machine, "eth7"), last)
        until(lambda: len(witness.egress.packets(PORT)) > 0, "the true packet outside", seconds=2)
        assert {packet.source_port for packet in witness.egress.packets(PORT)} == {5002}


def test_links_are_those_that_the_nearest_routes_lead_by(lab: Lab) -> None:
    """Not the egress interface, which the default route leads by, and no interface of pods."""
    machine = lab.nodes["g1"].machine
    assert node_links(lab, lab.nodes["g1"], 4) == node_links(lab, lab.nodes["g1"], 6) == ("eth0",)
    machine.ip("route add 10.0.0.0/24 dev eth1 metric 1000")
    try:
        assert node_links(lab, lab.nodes["g1"], 4) == ("eth0", "eth1")
    finally:
        machine.ip("route del 10.0.0.0/24 dev eth1")
    machine.ip(f"route add {W2} dev cbr0 metric 1000 table 77")
    try:
        assert node_links(lab, lab.nodes["g1"], 4) == ("eth0",)
    finally:
        machine.ip("route flush table 77")
