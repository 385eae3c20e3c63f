"""Nodes that reach each other by IPv6 alone. Workers have no IPv4 at all; the egress LAN has both families.

So IPv4 packets of pods come out of a tunnel from an address that only our tunnels know, and their answers arrive at
a node without an IPv4 route to where they come from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni.kernel import ids

from ..lab import documents, topology
from ..lab.connections import Connections, fates
from ..lab.lab import SELECTED, Lab
from ..lab.node import Node
from ..lab.pod import Pod
from ..lab.silence import longest
from ..lab.topology import OUTSIDE, OUTSIDE6
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled

ADDRESS = "172.16.0.50"
ADDRESS6 = topology.beside(ADDRESS)
SHOWN = {OUTSIDE: ADDRESS, OUTSIDE6: ADDRESS6}
BOTH = pytest.mark.parametrize("service", [OUTSIDE, OUTSIDE6], ids=["ipv4", "ipv6"])
DESTINATIONS = ["203.0.113.0/24", "2001:db8:113::/64"]
TUNNEL_PORT = 4799
UNDERLAY_MTU, OVERHEAD = 1500, 70
PORTS = iter(range(9400, 9500))
"""Ports of the outside service, one for each test: entries of one test in a connection table do not disturb another."""
COUNT = 300


@pytest.fixture(scope="module")
def shared_lab(plugin: Path) -> Iterator[Lab]:
    with settled("test_ipv6_underlay", topology.ipv6_underlay(), objects=virtual_objects()) as made:
        yield made


def virtual_objects() -> list[documents.Document]:
    shown = [ADDRESS, ADDRESS6]
    return documents.virtual_ip(shown, GATEWAY, connection_sync=True, destinations=DESTINATIONS)


@pytest.fixture
def lab(shared_lab: Lab) -> Lab:
    """Each address has a master, and all others are ready to follow."""
    until(lambda: len(masters(shared_lab)) == 2 and all(masters(shared_lab).values()), "two masters", 20)
    shared_lab.wait_settled(GATEWAY, 40)
    return shared_lab


@pytest.fixture(scope="module", params=["bridge", "ptp"])
def pod(shared_lab: Lab, request: pytest.FixtureRequest) -> Pod:
    return shared_lab.nodes["w1"].pod(f"backend-{request.param}", BACKEND, kind=request.param)


def masters(lab: Lab) -> dict[str, str]:
    """By address, as a worker sees them."""
    return {egress["ip"]: egress["master"] for egress in lab.nodes["w1"].agent.status()["egressIPs"]}


def master(lab: Lab, service: str) -> Node:
    return lab.nodes[masters(lab)[SHOWN[service]]]


def having(lab: Lab, address: str) -> list[str]:
    """Return the nodes that have an address in their kernel."""
    return [name for name, node in lab.nodes.items() if node.has(address)]


def serve(lab: Lab, service: str) -> int:
    """Return a port of the outside service that nobody has used."""
    port = next(PORTS)
    lab.serve("outside", port, address=service)
    return port


def entries(lab: Lab, name: str, service: str) -> int:
    """Return the number of synced connections of the worker's pods in the node's kernel."""
    family = 6 if ":" in service else 4
    inner = ids.inner(lab.nodes["w1"].host.ip6, family, synced=True)
    listed = lab.nodes[name].machine.run(
        "conntrack", "-L", "-f", f"ipv{family}", "--orig-src", inner, "-p", "tcp"
    )
    return sum("ESTABLISHED" in line and f"={SHOWN[service]} " in line for line in listed.splitlines())


@BOTH
def test_the_outside_sees_the_virtual_address_of_each_family(lab: Lab, pod: Pod, service: str) -> None:
    node = master(lab, service)
    # The other address's master tells of its connections by a tunnel too.
    egress_addresses = {other.host.ip6 for other in lab.nodes.values() if other.host.is_egress}
    with lab.capture() as outside, lab.capture(node.name) as arriving:
        for _ in range(5):
            assert pod.request(SELECTED, address=service).address == SHOWN[service]
            assert pod.datagram(SELECTED, address=service).address == SHOWN[service]
        assert outside.sources(SELECTED) == {SHOWN[service]}
        assert arriving.sources(TUNNEL_PORT) - egress_addresses == {lab.nodes["w1"].host.ip6}
    assert having(lab, SHOWN[service]) == [node.name]


@BOTH
def test_a_pod_on_the_master_itself(lab: Lab, service: str) -> None:
    own = master(lab, service).pod("on-master", BACKEND)
    try:
        assert own.request(SELECTED, address=service).address == SHOWN[service]
    finally:
        own.stop()


def test_the_tunnels_leave_room_for_the_headers(lab: Lab) -> None:
    for node in lab.nodes.values():
        devices = json.loads(node.machine.run("ip", "-j", "link", "show", "type", "vxlan"))
        assert {device["mtu"] for device in devices} == {UNDERLAY_MTU - OVERHEAD}


def test_the_operator_sees_that_all_is_well(lab: Lab) -> None:
    for node in lab.nodes.values():
        # Workers hear of a node that has come back with their next subscription.
        until(lambda n=node: all(m["ready"] for m in n.agent.status()["members"]), "all ready")  # type: ignore[misc]
        assert node.agent.status()["problems"] == []
    for name in ("w1", "g1"):
        node = lab.nodes[name]
        assert ADDRESS6 in node.egressctl("status")
        assert node.host.ip6 in node.egressctl("doctor"), "where its tunnels begin"


@BOTH
def test_a_node_that_is_cut_off_is_followed_by_another_with_the_same_address(
    lab: Lab, pod: Pod, service: str
) -> None:
    failed = master(lab, service)
    port = serve(lab, service)
    connection = pod.connect(port, address=service)
    connection.echo("before")
    with lab.capture() as capture:
        lab.cut(failed.name)
        try:
            shown = SHOWN[service]
            until(lambda: pod.request(port, 0.3, service).address == shown, "requests pass again", 5)
            assert connection.echo("after") == "after", "the open connection goes on"
            assert any(name != failed.name for name in having(lab, shown))
            assert capture.sources(port) == {shown}
        finally:
            lab.mend(failed.name)
    connection.close()
    # While addresses even out among the others, the next master may hand over once more.
    until(lambda: having(lab, shown) == [masters(lab)[shown]], "the old master has let go")


@BOTH
def test_a_drain_loses_nothing(lab: Lab, pod: Pod, service: str) -> None:
    before = master(lab, service)
    port = serve(lab, service)
    with lab.capture() as capture, lab.probing(pod, port, service) as probing:
        until(lambda: len(capture.packets(port)) > 200, "probes arrive")
        before.egressctl("drain")
        try:
            seen = len(capture.packets(port))
            until(lambda: len(capture.packets(port)) > seen + 200, "probes go on arriving")
            probes = probing.stop()
            assert before.name not in having(lab, SHOWN[service])
        finally:
            before.egressctl("undrain")
        assert capture.sources(port) == {SHOWN[service]}
    assert longest(probes).lost == 0, f"{longest(probes)} of {len(probes)}"


@BOTH
@pytest.mark.parametrize("planned", [True, False], ids=["drained", "cut off"])
def test_synced_connections_go_on(lab: Lab, pod: Pod, service: str, planned: bool) -> None:
    node = master(lab, service)
    standbys = [name for name in ("g1", "g2", "g3") if name != node.name]
    log = lab.directory / "connections.log"
    with (
        lab.capture() as capture,
        Connections(pod.machine, log, port := serve(lab, service), COUNT, address=service) as connections,
    ):
        for name in standbys:
            until(lambda n=name: entries(lab, n, service) >= COUNT, f"{name} knows them", 20)  # type: ignore[misc]
        struck = time.time_ns()
        node.egressctl("drain") if planned else lab.cut(node.name)
        try:
            until(lambda: masters(lab)[SHOWN[service]] in standbys, "another one serves")
            until(lambda: time.time_ns() > struck + 2_000_000_000, "each has had its turn")
            outcome = fates(connections.stop(), struck)
        finally:
            node.egressctl("undrain") if planned else lab.mend(node.name)
        assert capture.sources(port) == {SHOWN[service]}
    assert (outcome.alive, outcome.reset) == (COUNT, 0)


def test_a_node_of_the_other_family_is_a_problem_and_disturbs_no_other_node(lab: Lab, pod: Pod) -> None:
    wire = topology.Interface("eth0", "nodes", "10.0.0.99/24")
    lab.publish("stranger", [documents.node(topology.Host("g9", (wire,), labels=topology.EGRESS_LABEL))])
    try:
        for node in lab.nodes.values():
            until(lambda n=node: n.agent.status()["problems"], f"{node.name} tells")  # type: ignore[misc]
            [problem] = node.agent.status()["problems"]
            assert problem["message"].startswith("node g9 has no IPv6 address")
        for service, shown in SHOWN.items():
            assert pod.request(SELECTED, address=service).address == shown
    finally:
        lab.publish("stranger", [])
    for node in lab.nodes.values():
        until(lambda n=node: not n.agent.status()["problems"], f"{node.name}: all is well")  # type: ignore[misc]


def test_a_node_that_becomes_the_stranger_lets_nothing_out(lab: Lab) -> None:
    """Its only address is of the other family: its selected pods reach no gateway, and it can be none."""
    worker = lab.nodes["w2"]
    pod = worker.pod("stranded", BACKEND)
    for service, shown in SHOWN.items():
        assert pod.request(SELECTED, address=service).address == shown
    with lab.capture() as capture:
        _publish(lab, {"w2": "10.0.0.22"})
        try:
            until(lambda: len(worker.agent.status()["problems"]) == 2, "it says so")
            until(
                lambda: not any(e["master"] for e in worker.agent.status()["egressIPs"]), "it follows nobody"
            )
            before = len(capture.packets(SELECTED))
            for service in SHOWN:
                with pytest.raises(OSError):
                    pod.request(SELECTED, 0.3, service)
            assert len(capture.packets(SELECTED)) == before
        finally:
            _publish(lab, {})
        for service in SHOWN:
            until(lambda s=service: pod.request(SELECTED, 0.3, s), "requests pass again", 10)  # type: ignore[misc]
        assert capture.sources(SELECTED) <= {*SHOWN.values()}
    pod.stop()


def _publish(lab: Lab, instead: dict[str, str]) -> None:
    """Publish the inventory, with other addresses for some nodes."""
    listed = [documents.node(node.host) for node in lab.nodes.values()]
    for document in listed:
        own = document["status"]["addresses"][0]
        own["address"] = instead.get(document["metadata"]["name"], own["address"])
    lab.publish("nodes", listed)


def test_basic_mode(lab: Lab, pod: Pod) -> None:
    """It shows IPv4 addresses; IPv6 packets of the same pods have no gateway then."""
    lab.publish("objects", documents.basic_mode("eth1", GATEWAY))
    try:
        until(
            lambda: not any(having(lab, address) for address in SHOWN.values()), "no virtual address is left"
        )
        served = lab.nodes[lab.wait_settled(GATEWAY, 40)]
        with lab.capture() as capture:
            until(lambda: pod.request(SELECTED, 0.3), "the worker has a tunnel to it", 5)
            assert pod.request(SELECTED).address == served.host.egress_ip
            assert pod.datagram(SELECTED).address == served.host.egress_ip
            lab.cut(served.name)
            try:
                answer = until(lambda: pod.request(SELECTED, 0.3), "another one serves", 5)
                others = {node.host.egress_ip for node in lab.nodes.values() if node.host.is_egress} - {
                    served.host.egress_ip
                }
                assert answer.address in others
                assert capture.sources(SELECTED) <= {served.host.egress_ip, *others}
            finally:
                lab.mend(served.name)
    finally:
        lab.publish("objects", virtual_objects())
