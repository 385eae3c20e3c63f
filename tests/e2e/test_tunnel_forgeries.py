"""Frames made by hand for the gateways' tunnel port; the capture at the outside server is the witness.

The table of cases is in tests/netns/test_tunnel_attacks.py and test_sync_attacks.py. Here the agents install the rules,
and conntrackd writes what it receives into the kernels of the egress nodes. Each frame is well made: where the one rule
that is meant does not apply, the same frame arrives. ``FORGERY_UNDERLAYS`` in the environment gives the IP versions
between the nodes: ``4 6`` are both.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from cni.kernel import ids

from ..lab import documents, topology, vxlan
from ..lab.capture import Capture
from ..lab.lab import SELECTED, Lab
from ..lab.local_user import as_local_user, sent_by_device
from ..lab.node import Node
from ..lab.packets import mac_of, send_frame, udp
from ..lab.pod import Pod
from ..lab.topology import OUTSIDE, OUTSIDE6, VIRTUAL
from ..lab.waiting import until
from .conftest import BACKEND, GATEWAY, settled
from .guard_counters import NODE_TABLE, dropped, dropped_by_guards, send_counted, without_guards

UNDERLAYS = os.environ.get("FORGERY_UNDERLAYS", "4").split()
SHOWN = {4: VIRTUAL, 6: topology.beside(VIRTUAL)}
SERVICES = {4: OUTSIDE, 6: OUTSIDE6}
DESTINATIONS = ["203.0.113.0/24", "2001:db8:113::/64"]
FORGED = 9200
"""First port of the outside server to which nothing but forged packets goes."""
ETH_P_IP, HEADERS = 0x0800, 28
"""linux/if_ether.h; bytes of IPv4 and UDP headers."""
UNUSED = 20000
"""First of the ports that no pod uses: the system's own begin at 32768."""
SYNC = (ids.SYNC_GROUP, ids.SYNC_PORT)


@pytest.fixture(scope="module", params=UNDERLAYS)
def shared_lab(plugin: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    machines = topology.ipv6_underlay() if request.param == "6" else topology.dual_stack(workers=2)
    shown = list(SHOWN.values())
    objects = documents.virtual_ip(shown, GATEWAY, connection_sync=True, destinations=DESTINATIONS)
    with settled(f"test_tunnel_forgeries-{request.param}", machines, objects=objects) as made:
        yield made


@pytest.fixture
def lab(shared_lab: Lab) -> Lab:
    """Return the lab when all nodes name the same two masters."""
    until(lambda: two_masters(shared_lab), "two masters", 30)
    return shared_lab


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def pod(shared_lab: Lab) -> Pod:
    return shared_lab.nodes["w1"].pod("backend-1", BACKEND)


def two_masters(lab: Lab) -> bool:
    """Return True if the two addresses are spread: none of them moves any more."""
    found = [masters(node) for node in lab.nodes.values()]
    return all(each == found[0] for each in found) and len({*found[0].values()} - {""}) == 2


def masters(node: Node) -> dict[str, str]:
    """Return the masters by address, as a node sees them."""
    return {egress["ip"]: egress["master"] for egress in node.agent.status()["egressIPs"]}


def master(lab: Lab, family: int) -> Node:
    return lab.nodes[masters(lab.nodes["w1"])[SHOWN[family]]]


def standby(lab: Lab) -> Node:
    """Return the egress node that is master of neither address."""
    [name] = {name for name, node in lab.nodes.items() if node.host.is_egress} - {
        *masters(lab.nodes["w1"]).values()
    }
    return lab.nodes[name]


def inner_source(node: Node, family: int) -> str:
    return ids.inner(node.host.internal_ip, family, synced=True)


def to_gateway(lab: Lab, family: int, node: Node, source: str, port: int) -> bytes:
    """Return a packet to an outside port as the tunnel from a node would carry it; ``source``: the inner one."""
    vni = ids.vni(ids.egress_id(GATEWAY, SHOWN[family]))
    inner = udp(source, SERVICES[family], port)
    return vxlan.packet(node.host.internal_ip, master(lab, family).host.internal_ip, vni, inner)


def nothing_but_the_pods_own(lab: Lab, capture: Capture, pod: Pod, family: int, ports: Sequence[int]) -> None:
    """Have the pod send after the attack by the same gateway: what was sent before would have arrived before."""
    answer = pod.datagram(SELECTED, address=SERVICES[family])
    assert answer.address == SHOWN[family]
    assert capture.packets(SELECTED)
    assert [port for port in ports if capture.packets(port)] == []


@pytest.mark.parametrize("place", ["worker", "egress node"])
def test_no_process_of_a_node_speaks_vxlan_to_a_gateway(lab: Lab, family: int, place: str) -> None:
    """A user without rights, and a host-network pod with the rights that runtimes give to pods."""
    node = lab.nodes["w2"] if place == "worker" else standby(lab)
    senders = (vxlan.by_local_user, *vxlan.PROCESS, vxlan.into_the_device)
    ports = range(FORGED, FORGED + len(senders))
    source = inner_source(node, family)

    def attack() -> None:
        mac = mac_of(master(lab, family).machine, "eth0")
        for send, port in zip(senders, ports, strict=True):
            send(node.machine, to_gateway(lab, family, node, source, port), mac)

    own = node.pods.get("witness") or node.pod("witness", BACKEND)
    until(lambda: own.datagram(SELECTED, address=SERVICES[family]), "the gateway serves the pod", 10)
    with lab.capture() as capture:
        send_counted(attack, len(senders), lambda: dropped_by_guards(node))
        nothing_but_the_pods_own(lab, capture, own, family, ports)
        with without_guards(node):
            attack()
            for port in ports:
                until(lambda p=port: capture.packets(p), f"{port}: the same frame arrives", 5)  # type: ignore[misc]
        assert {source for port in ports for source in capture.sources(port)} == {SHOWN[family]}


def test_a_machine_of_the_lan_sends_with_no_other_inner_source_than_the_outer_ones(
    lab: Lab, family: int, pod: Pod
) -> None:
    """Root there writes frames with a worker's outer address, and the inner source of everybody else."""
    victim, gateway, machine = lab.nodes["w1"], master(lab, family), lab.machines["router"]
    others = {
        FORGED: inner_source(lab.nodes["w2"], family),
        FORGED + 1: inner_source(standby(lab), family),
        FORGED + 2: SHOWN[family],
        FORGED + 3: pod.address if family == 4 else pod_address6(pod),
    }

    def send(source: str, port: int) -> None:
        frame = to_gateway(lab, family, victim, source, port)
        send_frame(machine, "eth0", mac_of(gateway.machine, "eth0"), frame)

    def attack() -> None:
        for port, source in others.items():
            send(source, port)

    with lab.capture() as capture:
        send_counted(attack, len(others), lambda: dropped(gateway, NODE_TABLE, "tunnel_out"))
        nothing_but_the_pods_own(lab, capture, pod, family, list(others))
        # VXLAN has no authentication: a frame in which both sources are one node's is taken for that node's.
        send(inner_source(victim, family), FORGED + 4)
        until(lambda: capture.packets(FORGED + 4), "the frame is well made", 5)
        assert capture.sources(FORGED + 4) == {SHOWN[family]}


def pod_address6(pod: Pod) -> str:
    return str(pod.result["ips"][1]["address"]).partition("/")[0]


class Forgery:
    """A message of conntrackd, recorded from a real one, about a connection that does not exist."""

    def __init__(self, recorded: bytes, port: int) -> None:
        """``port``: of the pod in the recorded message."""
        self._recorded, self._port = recorded, port

    def message(self, port: int) -> bytes:
        """Return the message with another port of the pod."""
        return self._recorded.replace(self._port.to_bytes(2), port.to_bytes(2))

    def frame(self, outer: Node, to: Node, port: int) -> bytes:
        inner = udp(ids.SYNC_ADDRESS, ids.SYNC_GROUP, ids.SYNC_PORT, self.message(port))
        return vxlan.packet(outer.host.internal_ip, to.host.internal_ip, ids.SYNC_VNI, inner)


@pytest.fixture
def forgery(lab: Lab, family: int, pod: Pod) -> Forgery:
    """Return what the master reports to its partners of a pod's connection."""
    machine = standby(lab).machine
    with machine.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as wire:
        machine.inside(lambda: wire.bind((ids.SYNC_DEVICE, ETH_P_IP)))
        wire.settimeout(0.5)
        connection = pod.connect(SELECTED, address=SERVICES[family])
        known = connection.port.to_bytes(2)

        def message() -> bytes:
            """Return a message in which the port occurs once."""
            found = wire.recv(1 << 16)[HEADERS:]
            return found if found.count(known) == 1 else b""

        forgery = Forgery(until(message, "a message about the connection", 20), connection.port)
        connection.close()
        return forgery


def ports_known(lab: Lab, node: Node, family: int) -> set[int]:
    """Return the source ports of the connections from the first worker that the node's kernel knows."""
    source = inner_source(lab.nodes["w1"], family)
    listed = node.machine.run("conntrack", "-L", "-f", f"ipv{family}", "-p", "tcp", "--orig-src", source)
    return {int(line.partition("sport=")[2].split()[0]) for line in listed.splitlines()}


def as_user_of_a_partner(lab: Lab, forgery: Forgery, gateway: Node, ports: Iterator[int]) -> None:
    """Send as a user without rights of an egress node: into the sync device, and to conntrackd's port."""
    partner = standby(lab)
    for loop in (False, True):
        message = forgery.message(next(ports))
        as_local_user(partner.machine, sent_by_device(ids.SYNC_DEVICE, SYNC, ids.SYNC_ADDRESS, loop, message))
    for to in ("127.0.0.1", partner.host.internal_ip, gateway.host.internal_ip):
        message = forgery.message(next(ports))
        as_local_user(partner.machine, sent_by_device("", (to, ids.SYNC_PORT), payload=message))


def by_tunnel_port(lab: Lab, forgery: Forgery, gateway: Node, ports: Iterator[int]) -> None:
    """Send VXLAN frames as users of nodes, as a host-network pod of a worker, and in that worker's name from elsewhere.

    The last is stopped by no rule of its sender, but the worker is no partner.
    """
    worker, mac = lab.nodes["w2"], mac_of(gateway.machine, "eth0")
    for node in (standby(lab), worker):
        frame = forgery.frame(node, gateway, next(ports))
        send_counted(
            partial(vxlan.by_local_user, node.machine, frame, mac), 1, partial(dropped_by_guards, node)
        )
    for send in vxlan.PROCESS:
        send(worker.machine, forgery.frame(worker, gateway, next(ports)), mac)
    frame, router = forgery.frame(worker, gateway, next(ports)), lab.machines["router"]
    drops = partial(dropped, gateway, NODE_TABLE, "tunnel_sync")
    send_counted(partial(send_frame, router, "eth0", mac, frame), 1, drops)


def test_only_partners_write_connections_into_the_gateways_kernels(
    lab: Lab, family: int, pod: Pod, forgery: Forgery
) -> None:
    gateway, partner = master(lab, family), standby(lab)
    ports = iter(range(UNUSED, UNUSED + 100))
    as_user_of_a_partner(lab, forgery, gateway, ports)
    by_tunnel_port(lab, forgery, gateway, ports)
    used = set(range(UNUSED, next(ports)))

    connection = pod.connect(SELECTED, address=SERVICES[family])
    for node in filter(lambda node: node.host.is_egress, lab.nodes.values()):
        until(
            lambda n=node: connection.port in ports_known(lab, n, family),  # type: ignore[misc]
            "the pod's connection, which began after the attack, is known",
            20,
        )
        assert ports_known(lab, node, family) & used == set()
    connection.close()

    # The message is well made: in the name of a partner, and by root as conntrackd itself sends, it is taken.
    in_name, by_root = next(ports), next(ports)
    frame = forgery.frame(partner, gateway, in_name)
    send_frame(lab.machines["router"], "eth0", mac_of(gateway.machine, "eth0"), frame)
    message = forgery.message(by_root)
    partner.machine.inside(sent_by_device(ids.SYNC_DEVICE, SYNC, ids.SYNC_ADDRESS, payload=message))
    until(lambda: ports_known(lab, gateway, family) >= {in_name, by_root}, "both are written", 5)
