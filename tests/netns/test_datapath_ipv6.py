"""IPv6 pods by a virtual IPv6 address, beside IPv4, over an underlay of either family."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest

from cni.kernel import ids
from cni.kernel.netlink.conntrack import ctnetlink
from cni.kernel.netlink.neighbours import Neighbours
from cni.plan import Destination, PolicySet
from tests.lab.capture import Capture
from tests.lab.packets import send, udp
from tests.lab.waiting import until

from .datapath_lab import MTU, SERVICE, SERVICE6, TAG, Lab, plan, v6
from .datapath_lab import VIRTUAL6 as VIRTUAL
from .datapath_traffic import PORT, family_of, is_reset
from .dual_stack_lab import DEVICE, SIXTH, install, plan6, put, take

G1, W1 = "172.16.0.7", "10.0.0.11"
ICMP_UNREACHABLE, ICMP6_UNREACHABLE = 3, 1
EVERY_POD = ("bridged", "routed", "twin", "routedtwin", "onmaster", "onstandby")
UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES)


@pytest.fixture(params=["1", "0"], ids=["bridge-nf", "no-bridge-nf"])
def bridge_nf(shared_lab: Lab, request: pytest.FixtureRequest) -> Iterator[None]:
    names = [f"net/bridge/bridge-nf-call-{tables}" for tables in ("iptables", "ip6tables")]
    for node in shared_lab.nodes.values():
        node.machine.sysctl(dict.fromkeys(names, request.param))
    yield
    for node in shared_lab.nodes.values():
        node.machine.sysctl(dict.fromkeys(names, "1"))


@pytest.mark.usefixtures("bridge_nf")
@pytest.mark.parametrize("pod", EVERY_POD)
def test_a_dual_stack_pod_leaves_by_the_address_of_each_family(lab6: Lab, pod: str) -> None:
    client = lab6.pods[pod]
    with lab6.witness() as witness, client.datagrams(SERVICE6) as datagrams:
        assert client.seen_as(SERVICE6) == VIRTUAL
        assert datagrams.seen_as() == VIRTUAL
        assert client.seen_as(SERVICE) == G1
        assert witness.sources() == {VIRTUAL, G1}


def test_pods_with_one_address_talk_at_the_same_time(lab6: Lab) -> None:
    with contextlib.ExitStack() as stack:
        pods = [lab6.pods[name] for name in ("bridged", "twin", "onmaster")]
        talks = [stack.enter_context(pod.connect(SERVICE6, port=5000)) for pod in pods]
        assert len({v6(pod.address) for pod in pods}) == 1
        assert {talk.seen_as for talk in talks} == {VIRTUAL}
        assert all(talk.echo() for talk in talks * 2)


def test_a_worker_without_any_ipv6_address_serves_its_pods(lab6: Lab) -> None:
    worker = lab6.nodes["w2"]
    worker.machine.run("ip", "-6", "address", "flush", "dev", "eth0")
    try:
        for pod in ("twin", "routedtwin"):
            assert lab6.pods[pod].seen_as(SERVICE6) == VIRTUAL
    finally:
        worker.machine.ip(
            f"address add {v6(worker.address)}/64 dev eth0 nodad",
            f"route replace default via {v6('10.0.0.254')}",
        )


@pytest.mark.parametrize("pod", ["bridged", "routed", "onmaster"])
def test_without_a_master_the_pod_gets_an_error_at_once(lab6: Lab, pod: str) -> None:
    install(lab6, master="")
    with lab6.witness() as witness:
        with pytest.raises(OSError) as failure:
            lab6.pods[pod].connect(SERVICE6)
        assert failure.value.errno in UNREACHABLE
        assert witness.sources() == set()
        assert lab6.pods[pod].seen_as(SERVICE) == G1, "the other family is not touched"


@pytest.mark.parametrize("pod", ["bridged", "routed"])
def test_without_a_master_direct_traffic_leaves_as_the_node(lab6: Lab, pod: str) -> None:
    lab6.nodes["w1"].ensure(plan6("w1", master="", direct=True))
    assert lab6.pods[pod].seen_as(SERVICE6) == v6(W1)
    with lab6.pods[pod].connect(SERVICE6) as conversation:
        lab6.nodes["w1"].ensure(plan6("w1", direct=True))
        assert is_reset(conversation)
    assert lab6.pods[pod].seen_as(SERVICE6) == VIRTUAL


@pytest.mark.parametrize("pod", ["bridged", "routed", "onmaster", "onstandby"])
@pytest.mark.parametrize("direct", [False, True], ids=["drop", "direct"])
def test_a_gateway_without_an_ipv6_address_drops_ipv6_or_lets_it_go(lab: Lab, pod: str, direct: bool) -> None:
    """As its ``whenNoGateway`` says; to IPv4 it makes no difference."""
    client = lab.pods[pod]
    for name, node in lab.nodes.items():
        node.ensure(plan(name, direct=direct))
    with lab.witness() as witness:
        if direct:
            expected = {v6(client.node.address), v6(G1), v6("172.16.0.8")}
            assert client.seen_as(SERVICE6) in expected
        else:
            expected = set()
            with pytest.raises(OSError) as failure:
                client.connect(SERVICE6)
            assert failure.value.errno in UNREACHABLE
            with (
                client.datagrams(SERVICE6) as datagrams,
                pytest.raises(OSError, match=r"unreachable|timed out|denied"),
            ):
                datagrams.seen_as()
        assert client.seen_as(SERVICE) == G1
        assert witness.sources() - {G1} <= expected


@pytest.mark.parametrize("pod", ["bridged", "onmaster"])
def test_a_gateway_with_only_an_ipv6_address_drops_ipv4(lab6: Lab, pod: str) -> None:
    for name, node in lab6.nodes.items():
        planned = plan6(name)
        destinations = (Destination("203.0.113.0/24", SIXTH), Destination("2001:db8::/32", SIXTH))
        node.ensure(replace(planned, policy_sets=(PolicySet(TAG, ("a",), (SIXTH,), destinations),)))
    with lab6.witness() as witness:
        with pytest.raises(OSError) as failure:
            lab6.pods[pod].connect(SERVICE)
        assert failure.value.errno in UNREACHABLE
        assert lab6.pods[pod].seen_as(SERVICE6) == VIRTUAL
        assert witness.sources() == {VIRTUAL}


def test_failover_keeps_connections(lab6: Lab) -> None:
    worker = lab6.nodes["w1"]
    with lab6.pods["bridged"].connect(SERVICE6) as one, lab6.pods["routed"].connect(SERVICE6) as other:
        assert one.echo() and other.echo()
        with lab6.witness() as witness:
            take(lab6.nodes["g1"])
            put(lab6.nodes["g2"])
            worker.set_master(SIXTH, "g2", family=6)
            assert one.echo() and other.echo()
            assert lab6.pods["bridged"].seen_as(SERVICE6) == VIRTUAL
            assert witness.sources() == {VIRTUAL}
    assert worker.missing(plan6("w1")) == (), "the master is the lease daemon's"


@pytest.mark.parametrize("pod", ["onmaster", "onstandby"])
def test_connections_end_where_the_master_comes_to_the_pods_node_or_leaves_it(lab6: Lab, pod: str) -> None:
    client = lab6.pods[pod]
    with client.connect(SERVICE6) as conversation, lab6.witness() as witness:
        take(lab6.nodes["g1"])
        put(lab6.nodes["g2"])
        install(lab6, master="g2")
        assert is_reset(conversation)
        assert client.seen_as(SERVICE6) == VIRTUAL
        assert witness.sources() == {VIRTUAL}


def test_packets_wait_while_a_tunnel_is_held(lab6: Lab) -> None:
    worker = lab6.nodes["w1"]

    def hold() -> None:
        with contextlib.closing(Neighbours()) as neighbours:
            neighbours.queue(DEVICE, 6)

    with lab6.pods["bridged"].datagrams(SERVICE6) as datagrams, lab6.witness() as witness:
        worker.machine.inside(hold)
        with pytest.raises(TimeoutError):
            datagrams.seen_as()
        assert witness.sources() == set()
        worker.set_master(SIXTH, "g1", family=6)
        assert datagrams.sock.recv(100).split()[1].decode() == VIRTUAL, "what has waited is not lost"


def test_nothing_goes_into_a_tunnel_by_itself(lab6: Lab) -> None:
    worker, master = lab6.nodes["w1"], lab6.nodes["g1"]
    with (
        Capture(master.machine, "eth0") as at_master,
        Capture(lab6.nodes["w2"].machine, "eth0") as at_worker,
        lab6.pods["bridged"].datagrams(SERVICE6) as datagrams,
    ):
        worker.ensure(replace(plan6("w1"), egress_ips=(), policy_sets=()))
        worker.ensure(plan6("w1"))
        worker.machine.ip(f"link set {DEVICE} down", f"link set {DEVICE} up")
        worker.ensure(plan6("w1"))
        assert datagrams.seen_as() == VIRTUAL
        assert [packet.source for packet in at_master.packets(4799)] == [W1], "one datagram"
        assert at_worker.packets(4799) == []
    for device in (DEVICE, ids.RETURN_DEVICE):
        assert "inet6" not in worker.machine.run("ip", "-6", "address", "show", "dev", device)


DAMAGE = {
    "rule": ("ip", "-6", "rule", "del", "priority", "903"),
    "route": ("ip", "-6", "route", "del", "default", "dev", DEVICE, "table", "7003"),
    "routes": ("ip", "-6", "route", "flush", "table", "7003"),
    "device": ("ip", "link", "del", DEVICE),
    "device down": ("ip", "link", "set", DEVICE, "down"),
    "neighbour": ("ip", "neigh", "del", ids.NEXT_HOP6, "dev", DEVICE),
    "no IPv6": ("sysctl", "-qw", f"net.ipv6.conf.{DEVICE}.disable_ipv6=1"),
    "no IPv6 anywhere": ("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"),
    "no IPv6 on the way back": ("sysctl", "-qw", f"net.ipv6.conf.{ids.RETURN_DEVICE}.disable_ipv6=1"),
    "small": ("ip", "link", "set", DEVICE, "mtu", "1279"),
    "address": ("ip", "address", "add", "fd00:99::1/64", "dev", DEVICE),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_leaks_nothing_and_is_repaired(lab6: Lab, damage: str) -> None:
    worker = lab6.nodes["w1"]
    pods = [lab6.pods["bridged"], lab6.pods["routed"]]
    worker.machine.run(*DAMAGE[damage])
    with lab6.witness() as witness:
        for pod in pods:
            with contextlib.suppress(OSError):
                pod.connect(SERVICE6, seconds=0.2).sock.close()
        assert witness.sources() <= {VIRTUAL}
    if damage == "no IPv6 anywhere":
        _restore_ipv6(lab6)
    problems = worker.missing(plan6("w1"))
    assert problems or damage == "address"
    worker.ensure(plan6("w1"))
    assert worker.ensure(plan6("w1")) == ()
    assert [pod.seen_as(SERVICE6) for pod in pods] == [VIRTUAL, VIRTUAL]


def _restore_ipv6(lab: Lab) -> None:
    """Restore the addresses that the machine's owner had configured."""
    worker = lab.nodes["w1"].machine
    worker.sysctl({"net/ipv6/conf/all/disable_ipv6": "0"})
    worker.ip(
        f"address replace {v6(W1)}/64 dev eth0 nodad",
        "address replace fd00:244::1/64 dev cbr0 nodad",
        "address replace fe80::1/64 dev vethrouted nodad",
        f"route replace {v6(lab.pods['routed'].address)}/128 dev vethrouted",
        f"route replace default via {v6('10.0.0.254')}",
    )


@pytest.mark.parametrize("underlay", [4, 6])
@pytest.mark.parametrize("service", [SERVICE, SERVICE6])
def test_an_unsolicited_answer_gets_no_answer(lab6: Lab, underlay: int, service: str) -> None:
    """The address inside the tunnel may be none of the worker's: not even its routing may answer."""
    install(lab6, underlay=underlay)
    worker, pod = lab6.nodes["w1"].machine, lab6.pods["bridged"]
    own, shown = (v6(pod.address), VIRTUAL) if ":" in service else (pod.address, G1)
    protocol = socket.IPPROTO_ICMPV6 if ":" in service else socket.IPPROTO_ICMP
    with (
        pod.datagrams(service) as datagrams,
        Capture(worker, "eth0") as arriving,
        lab6.outside.socket(family_of(service), socket.SOCK_RAW, protocol) as errors,
    ):
        assert datagrams.seen_as() == shown
        assert worker.inside(lambda: ctnetlink.delete_opened({own: lambda _: True})) >= 1
        packet = udp(service, shown, datagrams.port, b"late", PORT)
        before = len(arriving.packets(4799))
        send(lab6.outside, packet)
        until(lambda: len(arriving.packets(4799)) > before, "the late one has come to the worker", 2)
        assert pod.seen_as(service) == shown, "this came after the late one"
        assert [kind for kind in icmp_types(errors) if kind in (ICMP_UNREACHABLE, ICMP6_UNREACHABLE)] == []


def icmp_types(sock: socket.socket) -> Iterator[int]:
    """Of all that has come to a raw socket; only that of IPv4 shows the IP header too."""
    with contextlib.suppress(BlockingIOError):
        while True:
            data = sock.recv(2048, socket.MSG_DONTWAIT)
            yield data[0] if sock.family == socket.AF_INET6 else data[20]


def test_a_tunnel_too_small_for_ipv6_carries_ipv4(lab6: Lab) -> None:
    small = replace(plan6("w1"), mtu=ids.IPV6_MIN_MTU - 1)
    worker = lab6.nodes["w1"]
    worker.ensure(small)
    assert worker.missing(small) == ()
    with lab6.witness() as witness:
        with pytest.raises(OSError) as failure:
            lab6.pods["bridged"].connect(SERVICE6)
        assert failure.value.errno in UNREACHABLE
        assert lab6.pods["bridged"].seen_as(SERVICE) == G1
        assert witness.sources() == {G1}
    worker.ensure(plan6("w1"))
    assert worker.missing(plan6("w1")) == ()


@pytest.mark.parametrize("underlay", [4, 6])
@pytest.mark.parametrize("pod", ["bridged", "routed"])
def test_segments_fit_into_the_tunnel(lab6: Lab, pod: str, underlay: int) -> None:
    install(lab6, underlay=underlay)
    with lab6.outside.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)) as sniffer:
        lab6.outside.inside(lambda: sniffer.bind(("br-e", 3)))
        sniffer.settimeout(2)
        lab6.pods[pod].seen_as(SERVICE6)
        assert offered_segment(sniffer) == (MTU if underlay == 4 else MTU - 20) - 60


def offered_segment(sniffer: socket.socket) -> int:
    """Return the maximum segment size in the first SYN over IPv6 to the service: Linux writes that option first."""
    while True:
        packet = sniffer.recv(2048)
        to_service = packet[24:40] == socket.inet_pton(socket.AF_INET6, SERVICE6)
        if (
            packet[0] >> 4 == 6
            and packet[6] == socket.IPPROTO_TCP
            and to_service
            and packet[53] & 0x12 == 0x02
        ):
            assert packet[60:62] == b"\x02\x04"
            return int(struct.unpack_from("!H", packet, 62)[0])
