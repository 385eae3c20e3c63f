"""Several gateways with routers of their own, tables of others, and nodes whose routes lead elsewhere."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cni.kernel import ids

from ..lab import documents, topology
from ..lab.documents import Document
from ..lab.lab import Lab
from ..lab.node import Node
from ..lab.pod import Pod
from ..lab.topology import OUTSIDE, OUTSIDE6, VIRTUAL
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

PORTS = itertools.count(9400)
HOP, HOP6 = "172.16.0.1", topology.beside("172.16.0.1")
VIRTUAL6 = topology.beside(VIRTUAL)
ELSEWHERE = "203.0.113.77"
"""Another address behind the egress network's router; the other router's network has no such machine."""
OFFICE, BILLING = "10.0.0.50", {"app": "billing"}
# linux/in.h
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2


def gateway(
    name: str, addresses: Sequence[str], interface: str, routing: dict[str, object] | None
) -> Document:
    made = documents.virtual_gateway(name, addresses, [interface])
    if routing is not None:
        made["spec"]["routing"] = routing
    return made


def partner(routing: dict[str, object] | None, *addresses: str) -> list[Document]:
    """Return a gateway of the egress network with a policy for all that backends send to the outside."""
    made = gateway(GATEWAY, addresses or [VIRTUAL], "eth1", routing)
    return [made, documents.policy("backend", GATEWAY, BACKEND)]


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    machines = topology.dual_stack_of(topology.two_routers())
    objects = partner({"nextHops": [HOP]})
    with settled("test_own_routing", machines, objects=objects) as made:
        yield made


def serve(lab: Lab, address: str = "0.0.0.0") -> int:
    """Start one service behind each router, at the same address. Return their port."""
    port = next(PORTS)
    for machine in ("beyond", "outside"):
        lab.serve(machine, port, address=address)
    return port


def address_seen(pod: Pod, port: int, address: str = OUTSIDE) -> str:
    """Return the address that a service sees; empty if it does not answer."""
    try:
        return pod.request(port, address=address).address
    except OSError:
        return ""


def await_address(expected: str, pod: Pod, port: int, address: str = OUTSIDE) -> None:
    until(lambda: address_seen(pod, port, address) == expected, f"a service sees {expected}", 20)


def await_master(lab: Lab, name: str, node: str) -> None:
    until(lambda: lab.master(name) == node, f"{node} is master of {name}", 20)


def await_reason(lab: Lab, node: str, expected: str) -> None:
    until(lambda: expected in reason_of(lab, node), f"the reason of {node}", 20)


def reason_of(lab: Lab, node: str, asked: str = "w1") -> str:
    members = lab.nodes[asked].agent.status()["members"]
    return next((str(member["reason"]) for member in members if member["node"] == node), "")


def test_two_gateways_of_one_node_have_each_their_router(lab: Lab) -> None:
    office = gateway("office", [OFFICE], "eth0", {"nextHops": ["10.0.0.1"]})
    lab.publish("objects", partner({"nextHops": [HOP]}))
    lab.publish("office", [office, documents.policy("billing", "office", BILLING)])
    lab.wait_settled("office")
    for name in (GATEWAY, "office"):
        if lab.master(name) != "g1":
            lab.nodes["w1"].egressctl("handover", name, "--to", "g1")
        await_master(lab, name, "g1")
    port = serve(lab)
    for place in ("w1", "g1"):
        backend = lab.nodes[place].pod(f"backend-{place}", BACKEND)
        billing = lab.nodes[place].pod(f"billing-{place}", BILLING)
        with lab.capture("beyond") as right, lab.capture() as other:
            assert backend.request(port).address == VIRTUAL
            assert billing.request(port).address == OFFICE
            until(lambda: right.sources(port) and other.sources(port), "both witnesses have seen packets")
            assert right.sources(port) == {VIRTUAL}
            assert other.sources(port) == {OFFICE}
    lab.publish("office", [])
    lab.wait_settled(GATEWAY)


def test_overlapping_destinations_go_by_the_router_of_the_longest_prefix(lab: Lab) -> None:
    """Each gateway has its own next hop, and one node is master of both."""
    office = gateway("office", [OFFICE], "eth0", {"nextHops": ["10.0.0.1"]})
    wide, narrow = (
        documents.policy(name, gateway_name, BACKEND, [prefix])
        for name, gateway_name, prefix in (("a", GATEWAY, "203.0.113.0/24"), ("b", "office", f"{OUTSIDE}/32"))
    )
    lab.publish("objects", [partner({"nextHops": [HOP]})[0], wide])
    lab.publish("office", [office, narrow])
    lab.wait_settled("office")
    for name in (GATEWAY, "office"):
        if lab.master(name) != "g1":
            lab.nodes["w1"].egressctl("handover", name, "--to", "g1")
        await_master(lab, name, "g1")
    beyond = lab.machines["beyond"]
    beyond.ip(f"address add {ELSEWHERE}/24 dev eth0")
    port = serve(lab)
    try:
        for place in ("w1", "g1"):
            pod = lab.nodes[place].pod(f"overlap-{place}", BACKEND)
            with lab.capture("beyond") as wider, lab.capture() as narrower:
                await_address(VIRTUAL, pod, port, ELSEWHERE)
                await_address(OFFICE, pod, port)
                until(
                    lambda: wider.sources(port) and narrower.sources(port), "both witnesses have seen packets"
                )
                assert wider.sources(port) == {VIRTUAL}
                assert narrower.sources(port) == {OFFICE}
    finally:
        beyond.ip(f"address del {ELSEWHERE}/24 dev eth0")
        lab.publish("office", [])
    lab.wait_settled(GATEWAY)


def test_ipv6_has_a_router_of_its_own(lab: Lab) -> None:
    lab.publish("objects", partner({"nextHops": [HOP, HOP6]}, VIRTUAL, VIRTUAL6))
    port = serve(lab, OUTSIDE6)
    master = lab.wait_settled(GATEWAY)
    for place in ("w1", master):
        pod = lab.nodes[place].pod(f"six-{place}", BACKEND)
        with lab.capture("beyond") as right, lab.capture() as wrong:
            await_address(VIRTUAL6, pod, port, OUTSIDE6)
            until(lambda: VIRTUAL6 in right.sources(port), "the witness has seen the packets")
            assert right.sources(port) == {VIRTUAL6}
            assert wrong.sources(port) == set()


def test_a_table_of_another_program_decides(lab: Lab) -> None:
    egress = [node for node in lab.nodes.values() if node.host.is_egress]
    for node in egress:
        node.machine.ip(f"route add default via {HOP} dev eth1 table 500")
    lab.publish("objects", partner({"table": 500}))
    port = serve(lab)
    master = lab.wait_settled(GATEWAY)
    for place in ("w1", master):
        pod = lab.nodes[place].pod(f"table-{place}", BACKEND)
        with lab.capture("beyond") as right, lab.capture() as wrong:
            await_address(VIRTUAL, pod, port)
            until(lambda: right.sources(port) == {VIRTUAL}, "the witness has seen the packets")
            assert wrong.sources(port) == set()
    for node in egress:
        node.machine.ip("route del default table 500")
    with lab.capture() as wrong:
        until(
            lambda: "routing table 500 has no route to everything" in reason_of(lab, master), "the reason", 20
        )
        assert wrong.sources(port) == set()


def test_what_is_on_link_is_reached_without_the_router(lab: Lab) -> None:
    lab.publish("objects", partner({"nextHops": [HOP], "prefixLength": 24}))
    master = lab.wait_settled(GATEWAY)
    other = next(node for node in lab.nodes.values() if node.host.is_egress and node.name != master)
    lab.serve(other.name, port := next(PORTS), address=other.host.egress_ip)
    pod = lab.nodes["w1"].pod("on-link", BACKEND)
    with lab.capture(other.name, "eth1") as there, lab.capture("border") as router:
        await_address(VIRTUAL, pod, port, other.host.egress_ip)
        until(lambda: there.sources(port) == {VIRTUAL}, "the witness has seen the packets")
        assert router.sources(port) == set()


def test_errors_about_answers_go_to_the_right_service(lab: Lab) -> None:
    """A datagram that is too big for the tunnel back is answered by the master, from the virtual address."""
    lab.publish("objects", partner({"nextHops": [HOP]}))
    lab.wait_settled(GATEWAY)
    pod, port = lab.nodes["w1"].pod("errors", BACKEND), next(PORTS)
    with (
        lab.machines["beyond"].socket(socket.AF_INET, socket.SOCK_DGRAM) as service,
        pod.machine.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        lab.capture("beyond") as right,
        lab.capture() as wrong,
    ):
        service.bind((OUTSIDE, port))
        service.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        service.settimeout(5)
        client.settimeout(5)
        client.connect((OUTSIDE, port))
        client.send(b"?")
        _, peer = service.recvfrom(100)
        assert peer[0] == VIRTUAL
        service.sendto(bytes(1472), peer)
        until(lambda: any(p.protocol == socket.IPPROTO_ICMP for p in right.packets()), "an error arrives")
        assert {p.source for p in right.packets() if p.protocol == socket.IPPROTO_ICMP} == {VIRTUAL}
        assert not [p for p in wrong.packets() if p.protocol == socket.IPPROTO_ICMP]
        # The kernel of the service has taken it for its own connection: it knows the path's MTU now.
        with pytest.raises(OSError, match="Message too long"):
            service.sendto(bytes(1472), peer)
        service.sendto(bytes(1300), peer)
        assert len(client.recv(2000)) == 1300


def test_routes_that_the_kernel_drops_with_an_interface_come_back(lab: Lab) -> None:
    """The kernel drops them without a word; the interface is as before when the agent looks."""
    lab.publish("objects", partner({"nextHops": [HOP]}))
    master = lab.wait_settled(GATEWAY)
    other = next(node for node in lab.nodes.values() if node.host.is_egress and node.name != master)
    other.machine.ip("link set eth1 down", "link set eth1 up", "route replace default via 10.0.0.1 dev eth0")
    until(lambda: f"via {HOP} dev eth1" in routes(other), "the route is there again", 10)
    lab.wait_settled(GATEWAY, 30)


def routes(node: Node) -> str:
    """Return the routes of all tables of our gateways."""
    listed = node.machine.run("ip", "-4", "route", "show", "table", "all")
    return "\n".join(line for line in listed.splitlines() if f"table {ids.EXIT_TABLE_BASE + 1}"[:-1] in line)


def test_without_routing_a_node_whose_routes_lead_elsewhere_says_so(lab: Lab) -> None:
    lab.publish("objects", partner(None))
    expected = "routes everything (IPv4) by eth0 via 10.0.0.1, not by eth1"
    egress = [node for node in lab.nodes.values() if node.host.is_egress]
    for node in egress:
        await_reason(lab, node.name, expected)
    until(lambda: not any(lab.master(GATEWAY, node.name) for node in egress), "no master", 10)
    for node in egress:
        pod = node.pod(f"asking-{node.name}", BACKEND)
        explained = node.egressctl("explain", pod.name, OUTSIDE)
        assert expected in explained, explained
    for node in egress:
        node.machine.ip(f"route replace default via {HOP} dev eth1")
    try:
        lab.wait_settled(GATEWAY, 30)
    finally:
        for node in egress:
            node.machine.ip("route replace default via 10.0.0.1 dev eth0")
