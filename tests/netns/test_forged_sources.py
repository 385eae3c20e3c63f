"""Pods that write other source addresses than their own into their packets, and those that look as if they did.

An attack has two steps: a forged *question* makes connection tracking believe that the outside server asked the pod;
then the pod's *answer* would leave by another address than its gateway's.
"""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from cni.datapath import objects
from tests.lab.capture import Packet
from tests.lab.packets import ACK, LSRR, SSRR, SYN, mac_of, send, send_frame, source_routed, tcp, udp
from tests.lab.waiting import until

from .datapath_lab import NODES, SERVICE, SERVICE6, SOURCES, VIRTUAL, VIRTUAL6, Lab, Pod, plan, v6
from .datapath_traffic import PORT

G1, W1 = "172.16.0.7", "10.0.0.11"
SELECTED = ("bridged", "routed", "onmaster", "onstandby")
NEIGHBOUR = "10.0.0.254"
"""The outside server in the nodes' own network: a strict source route leads only to neighbours."""
PUBLISHED, TARGET, LAST = 30080, 9000, 4999
"""A port of the node, the port of the pod that it leads to, and the source port of packets that end a test."""


@pytest.fixture(params=["0", "2"], ids=["no-rp-filter", "loose-rp-filter"])
def rp_filter(lab: Lab, request: pytest.FixtureRequest) -> Iterator[None]:
    def set_all(value: str) -> None:
        for node in lab.nodes.values():
            interfaces = ("all", *(pod.host for pod in lab.pods.values() if pod.node is node), "cbr0", "eth0")
            node.machine.sysctl({f"net/ipv4/conf/{name}/rp_filter": value for name in interfaces})

    set_all(request.param)
    yield
    set_all("0")


@dataclass(frozen=True)
class Kind:
    """How to make the packets of one transport protocol."""

    question: Callable[..., bytes]
    answer: Callable[..., bytes]


KINDS = {
    "udp": Kind(udp, udp),
    "tcp": Kind(
        functools.partial(tcp, flags=SYN),
        functools.partial(tcp, flags=SYN | ACK, acknowledged=2),
    ),
}


def gateway_mac(pod: Pod) -> str:
    """Return the MAC of the node's end of the pod's network."""
    return mac_of(pod.node.machine, pod.host if pod.routed else "cbr0")


def forge(pod: Pod, packet: bytes) -> None:
    send_frame(pod.machine, "eth0", gateway_mac(pod), packet)


def sources_outside(lab: Lab, actions: Callable[[], object]) -> set[str]:
    """Return the sources of all that came to the service's port meanwhile.

    Each node sends a last packet of its own after it, which surely arrives.
    """
    with lab.witness() as witness:

        def arrived() -> list[Packet]:
            return [*witness.direct.packets(PORT), *witness.egress.packets(PORT)]

        actions()
        for name, node in lab.nodes.items():
            send(node.machine, udp(SOURCES.get(name, node.address), SERVICE, PORT, source_port=LAST))
        until(
            lambda: sum(p.source_port == LAST for p in arrived()) == len(lab.nodes), "the last have arrived"
        )
        return {packet.source for packet in arrived() if packet.source_port != LAST}


@contextlib.contextmanager
def published(pod: Pod) -> Iterator[None]:
    """While the block runs, a port of the pod's node leads to the pod, as a NodePort or a host port does."""
    rules = "".join(
        f"table {family} nodeport {{ chain pre {{ type nat hook prerouting priority dstnat;"
        f" {protocol} dport {PUBLISHED} fib daddr type local dnat to {address}; }}; }}\n"
        for family, address in (("ip", f"{pod.address}:{TARGET}"), ("ip6", f"[{v6(pod.address)}]:{TARGET}"))
        for protocol in ("udp", "tcp")
    )
    pod.node.nft(rules)
    try:
        yield
    finally:
        pod.node.nft("delete table ip nodeport; delete table ip6 nodeport")


@pytest.mark.usefixtures("rp_filter")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pod", SELECTED)
@pytest.mark.parametrize("service", [SERVICE, SERVICE6])
def test_a_selected_pod_cannot_forge_a_question_to_itself(
    lab: Lab, pod: str, kind: str, service: str
) -> None:
    client, make = lab.pods[pod], KINDS[kind]
    own = v6(client.address) if ":" in service else client.address

    def attack() -> None:
        forge(client, make.question(service, own, TARGET, source_port=PORT))
        for _ in range(3):
            forge(client, make.answer(own, service, PORT, source_port=TARGET))

    assert sources_outside(lab, attack) <= {G1}


@pytest.mark.usefixtures("rp_filter")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pod", SELECTED)
@pytest.mark.parametrize("service", [SERVICE, SERVICE6])
def test_a_selected_pod_cannot_forge_a_question_to_its_published_port(
    lab: Lab, pod: str, kind: str, service: str
) -> None:
    client, make = lab.pods[pod], KINDS[kind]
    own, node = client.address, client.node.address
    if ":" in service:
        own, node = v6(own), v6(node)

    def attack() -> None:
        forge(client, make.question(service, node, PUBLISHED, source_port=PORT))
        for _ in range(3):
            forge(client, make.answer(own, service, PORT, source_port=TARGET))

    with published(client):
        assert sources_outside(lab, attack) <= {G1}


@pytest.mark.usefixtures("rp_filter")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["directly", "by a published port"])
@pytest.mark.parametrize("service", [SERVICE, SERVICE6])
@pytest.mark.parametrize("pod", ["bridged", "routed"])
def test_another_pod_cannot_forge_the_question_for_it(
    lab: Lab, pod: str, kind: str, way: str, service: str
) -> None:
    client, helper, make = lab.pods[pod], lab.pods["unselected"], KINDS[kind]
    own, node = client.address, client.node.address
    if ":" in service:
        own, node = v6(own), v6(node)
    asked = (own, TARGET) if way == "directly" else (node, PUBLISHED)

    def attack() -> None:
        forge(helper, make.question(service, *asked, source_port=PORT))
        for _ in range(3):
            forge(client, make.answer(own, service, PORT, source_port=TARGET))

    with published(client):
        assert sources_outside(lab, attack) <= {G1}


@pytest.mark.parametrize("pod", SELECTED)
@pytest.mark.parametrize("service", [SERVICE, SERVICE6])
def test_what_a_selected_pod_sends_from_another_address_goes_nowhere(
    lab: Lab, pod: str, service: str
) -> None:
    forged = ["10.99.0.7", "198.51.100.7", *NODES.values()]
    if ":" in service:
        forged = ["fd00:99::7", "2001:db8::7", *map(v6, NODES.values())]

    def attack() -> None:
        for source in forged:
            forge(lab.pods[pod], udp(source, service, PORT))

    assert sources_outside(lab, attack) == set()


@pytest.mark.usefixtures("rp_filter")
@pytest.mark.parametrize("pod", ["unselected", "bridged", "routed", "onmaster", "onstandby"])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("tagged", [False, True], ids=["unselected", "selected"])
def test_no_pod_sends_with_a_virtual_address_or_a_nodes(
    lab: Lab, pod: str, family: int, tagged: bool
) -> None:
    sender = lab.pods[pod]
    sender.tag(int(tagged))
    forged = [VIRTUAL, *NODES.values(), *SOURCES.values()]
    if family == 6:
        forged = [VIRTUAL6, *map(v6, (*NODES.values(), *SOURCES.values()))]
    make = [udp, KINDS["tcp"].question, KINDS["tcp"].answer]

    def attack() -> None:
        for source in forged:
            for packet in make:
                forge(sender, packet(source, SERVICE if family == 4 else SERVICE6, PORT))

    assert sources_outside(lab, attack) == set()


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("linked", [False, True], ids=["pods", "nodes"])
def test_a_route_to_a_pod_opens_no_address_of_a_gateway(lab: Lab, family: int, linked: bool) -> None:
    """A pod may have a node's address as its own, and an egress node may be a virtual machine behind this node."""
    sender, node = lab.pods["routed"], lab.nodes["w1"]
    sender.tag(0)
    known = plan("w1", node_links=("eth0", sender.host) if linked else ("eth0",))
    node.nft(objects.node_nft(known))
    version, service = ("", SERVICE) if family == 4 else ("-6 ", SERVICE6)
    own = [VIRTUAL, SOURCES["g1"], NODES["g2"]]
    addresses = own if family == 4 else [VIRTUAL6, v6(NODES["g2"])]
    for address in addresses:
        node.machine.run(*f"ip {version}route add {address} dev {sender.host}".split())

    def attack() -> None:
        for address in addresses:
            forge(sender, udp(address, service, PORT))

    try:
        seen = sources_outside(lab, attack)
        assert seen == set(addresses if linked else addresses[-1:])
    finally:
        for address in addresses:
            node.machine.run(*f"ip {version}route del {address} dev {sender.host}".split())
        node.nft(objects.node_nft(plan("w1")))


def test_the_check_of_reserved_sources_works_without_any_tag(lab: Lab) -> None:
    """The packets above are well made: without our tables they arrive."""
    for pod in lab.pods.values():
        pod.tag(0)
    sender = lab.pods["unselected"]
    assert sources_outside(lab, lambda: forge(sender, udp(VIRTUAL, SERVICE, PORT))) == set()
    lab.nodes["w1"].nft("flush chain inet egress_gateway pod_source")
    assert sources_outside(lab, lambda: forge(sender, udp(VIRTUAL, SERVICE, PORT))) == {VIRTUAL}


@pytest.fixture
def source_routes(lab: Lab) -> Iterator[None]:
    """Let the nodes obey source routes, which the kernel does not by default."""

    def set_all(value: str) -> None:
        for node in lab.nodes.values():
            hosts = (pod.host for pod in lab.pods.values() if pod.node is node)
            interfaces = ("all", *hosts, "cbr0", "eth0")
            node.machine.sysctl({f"net/ipv4/conf/{name}/accept_source_route": value for name in interfaces})
            node.machine.sysctl({f"net/ipv6/conf/{name}/seg6_enabled": value for name in interfaces})

    set_all("1")
    yield
    set_all("0")


@pytest.mark.usefixtures("source_routes")
@pytest.mark.parametrize("pod", ["bridged", "routed"])
@pytest.mark.parametrize(
    ("server", "option"), [(SERVICE, LSRR), (NEIGHBOUR, SSRR), (SERVICE6, 0)], ids=["lsrr", "ssrr", "seg6"]
)
def test_a_selected_pod_cannot_pass_its_gateway_by_a_source_route(
    lab: Lab, pod: str, server: str, option: int
) -> None:
    """The kernel puts the server's address in after prerouting, where the node's own address was looked at."""
    client = lab.pods[pod]
    own, node = client.address, client.node.address
    if ":" in server:
        own, node = v6(own), v6(node)
    packet = source_routed(udp(own, server, PORT), node, option)
    assert sources_outside(lab, lambda: forge(client, packet)) == set()
    client.tag(0)
    try:
        # The packet is well made: from a pod that no policy selects it arrives.
        assert sources_outside(lab, lambda: forge(client, packet)) == {own}
    finally:
        client.tag(1)


# --- what must go on -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pod", ["bridged", "routed"])
@pytest.mark.parametrize("service", [SERVICE, SERVICE6])
def test_a_client_of_a_published_port_is_answered(lab: Lab, pod: str, service: str) -> None:
    client = lab.pods[pod]
    node = v6(client.node.address) if ":" in service else client.node.address
    with published(client):
        assert _asked(lab, client, service, node)


@pytest.mark.parametrize("pod", ["bridged", "routed"])
def test_a_client_behind_another_uplink_than_the_route_back_is_answered(lab: Lab, pod: str) -> None:
    """Packets come by one uplink and their answers leave by the other, as in many networks with two."""
    client = lab.pods[pod]
    machine = client.node.machine
    lab.outside.ip(
        "link add name asym type veth peer name eth7 netns " + machine.name,
        "address add 192.0.2.1/24 dev asym",
        "link set asym up",
        "route add 10.99.0.0/24 dev asym",
    )
    try:
        machine.ip("address add 192.0.2.2/24 dev eth7", "link set eth7 up")
        machine.sysctl({"net/ipv4/conf/eth7/rp_filter": "0", "net/ipv4/conf/all/rp_filter": "0"})
        lab.outside.ip(f"route add {W1}/32 via 192.0.2.2 src {SERVICE} dev asym")
        with published(client):
            with pytest.raises(TimeoutError):
                _asked(lab, client, SERVICE, W1)
            wanted = plan("w1", uplinks=("eth0", "eth7"))
            client.node.ensure(wanted)
            machine.run("conntrack", "-F")
            assert _asked(lab, client, SERVICE, W1)
    finally:
        lab.outside.ip("link del asym")


@pytest.mark.parametrize("pod", ["bridged", "routed"])
def test_a_pod_with_two_addresses_uses_both(lab: Lab, pod: str) -> None:
    client = lab.pods[pod]
    second = client.address.rpartition(".")[0] + ".99"
    client.machine.ip(f"address add {second}/24 dev eth0")
    if client.routed:
        client.node.machine.ip(f"route add {second}/32 dev {client.host}")
    try:
        with client.machine.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((second, 0))
            sock.settimeout(2)
            sock.sendto(b"x", (SERVICE, PORT))
            assert sock.recv(100).split()[1].decode() == G1
    finally:
        client.machine.ip(f"address del {second}/24 dev eth0")
        if client.routed:
            client.node.machine.ip(f"route del {second}/32 dev {client.host}")


def test_a_pod_routes_for_others_if_its_node_has_a_route_to_them(lab: Lab) -> None:
    """The owner's choice is the route: without it their packets are dropped, with it they leave by the gateway."""
    client = lab.pods["bridged"]
    behind = udp("10.99.0.7", SERVICE, PORT)
    assert sources_outside(lab, lambda: send(client.machine, behind)) == set()
    client.node.machine.ip(f"route add 10.99.0.0/24 via {client.address} dev cbr0")
    try:
        assert sources_outside(lab, lambda: send(client.machine, behind)) == {G1}
    finally:
        client.node.machine.ip("route del 10.99.0.0/24")


def test_neighbour_discovery_of_a_selected_pod_works(lab: Lab) -> None:
    """With link-local sources, and with none while an address is checked for duplicates."""
    client = lab.pods["routed"]
    client.machine.ip("neigh flush dev eth0", "address add fd00:245::77/64 dev eth0")
    try:
        until(
            lambda: "tentative" not in client.machine.run("ip", "-6", "address"),
            "duplicate detection is over",
            5,
        )
        client.machine.run("ping", "-6", "-c", "1", "-W", "2", "fe80::1%eth0")
        assert "FAILED" not in client.machine.run("ip", "-6", "neigh")
    finally:
        client.machine.ip("address del fd00:245::77/64 dev eth0")


def _asked(lab: Lab, pod: Pod, service: str, node: str) -> bool:
    """Whether the outside server, asking at the published port, gets an answer. Raises :class:`TimeoutError`."""
    family = socket.AF_INET6 if ":" in service else socket.AF_INET
    own = v6(pod.address) if ":" in service else pod.address
    with (
        pod.machine.socket(family, socket.SOCK_STREAM) as listener,
        lab.outside.socket(family, socket.SOCK_STREAM) as visitor,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((own, TARGET))
        listener.listen()
        listener.settimeout(2)
        visitor.settimeout(2)
        visitor.bind((service, 0))
        visitor.connect((node, PUBLISHED))
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"answer")
            return visitor.recv(100) == b"answer"
