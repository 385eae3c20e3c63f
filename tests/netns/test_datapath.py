"""Who leaves by which address: the data path on a real kernel."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections import Counter
from collections.abc import Iterator

import pytest

from cni.kernel import ids
from gateway_agent.adapters.probes import refused_packets
from gateway_agent.show.metrics.packets import reason_of
from tests.lab.capture import Capture

from .datapath_lab import EXCLUDED, FIRST, MTU, OTHER_SERVICE, OTHER_TAG, SERVICE, Lab, plan
from .datapath_traffic import PORT, is_reset

G1, G2, W1, W2 = "172.16.0.7", "172.16.0.8", "10.0.0.11", "10.0.0.12"


@pytest.fixture(params=["1", "0"], ids=["bridge-nf", "no-bridge-nf"])
def bridge_nf(lab: Lab, request: pytest.FixtureRequest) -> Iterator[None]:
    setting = "net/bridge/bridge-nf-call-iptables"
    for node in lab.nodes.values():
        node.machine.sysctl({setting: request.param})
    yield
    for node in lab.nodes.values():
        node.machine.sysctl({setting: "1"})


def refused(lab: Lab, node: str) -> Counter[str]:
    """Return the refused packets of a node by reason, as its metrics have them."""
    counted: Counter[str] = Counter()
    for (table, chain), packets in lab.nodes[node].machine.inside(refused_packets.read).items():
        counted[reason_of(table, chain)] += packets
    return counted


@pytest.mark.usefixtures("bridge_nf")
@pytest.mark.parametrize("pod", ["bridged", "routed", "twin", "routedtwin", "onmaster", "onstandby"])
def test_selected_pod_leaves_by_the_master(lab: Lab, pod: str) -> None:
    with lab.witness() as witness, lab.pods[pod].datagrams() as datagrams:
        assert lab.pods[pod].seen_as() == G1
        assert datagrams.seen_as() == G1
        assert witness.sources() == {G1}


@pytest.mark.usefixtures("bridge_nf")
def test_pod_that_is_not_selected_leaves_as_its_node(lab: Lab) -> None:
    with lab.pods["unselected"].datagrams() as datagrams:
        assert lab.pods["unselected"].seen_as() == W1
        assert datagrams.seen_as() == W1


def test_two_pods_with_one_address_talk_at_the_same_time(lab: Lab) -> None:
    with lab.pods["bridged"].connect(port=5000) as one, lab.pods["twin"].connect(port=5000) as other:
        assert (one.seen_as, other.seen_as) == (G1, G1)
        assert one.echo() and other.echo() and one.echo()


def test_excluded_destination_is_reached_as_the_node(lab: Lab) -> None:
    assert lab.pods["bridged"].seen_as(EXCLUDED) == W1
    assert lab.pods["routed"].seen_as(EXCLUDED) == W1


def test_two_gateways_by_destination(lab: Lab) -> None:
    for pod in ("bridged", "routed", "onmaster"):
        lab.masters("g1", "g2")
        assert lab.pods[pod].seen_as(SERVICE) == G1
        assert lab.pods[pod].seen_as(OTHER_SERVICE) == G2


@pytest.mark.parametrize("pod", ["bridged", "routed", "onmaster"])
def test_without_a_master_the_pod_gets_an_error_at_once(lab: Lab, pod: str) -> None:
    lab.masters(first="")
    before = {name: refused(lab, name) for name in lab.nodes}
    with lab.witness() as witness:
        with pytest.raises(OSError) as failure:
            lab.pods[pod].connect(seconds=1.0)
        assert failure.value.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH)
        assert witness.sources() == set()
    node = "g1" if pod == "onmaster" else "w1"
    assert refused(lab, node)["no_master"] > before[node]["no_master"]
    lab.masters()
    counted = refused(lab, node)["no_master"]
    with lab.pods[pod].connect():
        pass
    assert refused(lab, node)["no_master"] == counted, "with a master nothing is counted"


def test_without_a_master_direct_traffic_leaves_as_the_node(lab: Lab) -> None:
    lab.nodes["w1"].ensure(plan("w1", first="", direct=True))
    assert lab.pods["bridged"].seen_as() == W1
    assert lab.pods["routed"].seen_as() == W1
    assert lab.pods["bridged"].seen_as(OTHER_SERVICE) == G2


@pytest.mark.usefixtures("bridge_nf")
@pytest.mark.parametrize("pod", ["bridged", "routed"])
def test_direct_connections_end_when_a_master_comes_and_goes(lab: Lab, pod: str) -> None:
    worker = lab.nodes["w1"]
    worker.ensure(plan("w1", first="", direct=True))
    with lab.pods[pod].connect() as before:
        worker.ensure(plan("w1", direct=True))
        assert is_reset(before)
    with lab.pods[pod].connect() as after:
        assert after.seen_as == G1
        worker.ensure(plan("w1", first="", direct=True))
        assert is_reset(after)


def test_failover_is_one_call_and_old_connections_end(lab: Lab) -> None:
    worker = lab.nodes["w1"]
    with (
        lab.pods["bridged"].connect() as conversation,
        Capture(worker.machine, "eth0") as underlay,
        lab.witness() as witness,
    ):
        assert conversation.echo()
        worker.set_master(FIRST, "g2")
        assert lab.pods["bridged"].seen_as() == G2
        assert is_reset(conversation)
        own = conversation.sock.getsockname()[1]
        by_port = {(packet.source, packet.source_port == own) for packet in witness.egress.packets(PORT)}
        assert by_port == {(G1, True), (G2, False)}, "the new master ends it and passes nothing of it on"
        assert SERVICE not in underlay.sources(), "the reset came through the tunnel"
    assert worker.missing(plan("w1")) == (), "the master is the lease daemon's"


@pytest.mark.parametrize("pod", ["onmaster", "onstandby"])
def test_connections_end_where_the_master_comes_to_the_pods_node_or_leaves_it(lab: Lab, pod: str) -> None:
    client = lab.pods[pod]
    with client.connect() as conversation, client.datagrams() as datagrams, lab.witness() as witness:
        assert datagrams.seen_as() == G1
        lab.masters(first="g2")
        with pytest.raises(OSError):
            datagrams.seen_as()
        assert is_reset(conversation)
        assert client.seen_as() == G2
        assert witness.sources() <= {G1, G2}


def test_unanswered_datagrams_do_not_go_on_by_the_old_address(lab: Lab) -> None:
    """To the kernel a connection that nobody answers stays new; its source address is fixed all the same."""
    with lab.pods["onstandby"].datagrams() as datagrams, lab.witness() as witness:
        for _ in range(3):
            datagrams.sock.sendto(b"x", (SERVICE, PORT + 1))
        lab.masters(first="g2")
        for _ in range(3):
            datagrams.sock.sendto(b"x", (SERVICE, PORT + 1))
        assert lab.pods["onstandby"].seen_as() == G2
        assert witness.sources() == {G2}, "to the service's own port"
        everything = {packet.source for packet in witness.egress.packets(PORT + 1)}
        assert everything == {G1} and not witness.direct.packets(PORT + 1)


@pytest.mark.usefixtures("bridge_nf")
@pytest.mark.parametrize("pod", ["bridged", "routed"])
def test_an_inbound_client_is_answered_the_way_it_came(lab: Lab, pod: str) -> None:
    """A port of the node leads to the pod; the client is one to whom the pod would go by the gateway."""
    client = lab.pods[pod]
    lab.nodes["w1"].nft(
        "table ip nodeport { chain pre { type nat hook prerouting priority dstnat;"
        f" tcp dport 30080 dnat to {client.address}:9000; }}; }}"
    )
    try:
        with client.machine.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((client.address, 9000))
            listener.listen()
            with lab.outside.socket(socket.AF_INET, socket.SOCK_STREAM) as visitor:
                visitor.settimeout(2)
                visitor.bind((SERVICE, 0))
                visitor.connect((W1, 30080))
                listener.settimeout(2)
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b"answer")
                    assert visitor.recv(100) == b"answer"
    finally:
        lab.nodes["w1"].nft("delete table ip nodeport")


@pytest.mark.parametrize("pod", ["bridged", "routed"])
def test_segments_fit_into_the_tunnel(lab: Lab, pod: str) -> None:
    with lab.outside.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)) as sniffer:
        lab.outside.inside(lambda: sniffer.bind(("br-e", 3)))
        sniffer.settimeout(2)
        lab.pods[pod].seen_as()
        assert _offered_segment(sniffer) == MTU - 40


def test_other_softwares_marks_survive(lab: Lab) -> None:
    worker = lab.nodes["w1"]
    worker.nft(
        "table inet foreign {"
        " chain pre { type filter hook prerouting priority -150;"
        " meta mark set meta mark | 0x1; ct mark set ct mark | 0x2; };"
        " chain post { type filter hook postrouting priority 400; oifname egw-* meta mark & 0xf00fffff == 0x1"
        " meta mark & 0x07f00000 == 0 ct mark & 0xf00fffff == 0x2 counter name right;"
        " udp dport 4799 meta mark 0x1 counter name right; udp dport 4799 counter name every;"
        " oifname egw-* counter name every; }; counter right { }; counter every { }; }"
    )
    try:
        assert lab.pods["bridged"].seen_as() == G1
        assert lab.pods["routed"].seen_as() == G1
        right, every = (
            _count(worker.machine.run("nft", "list", "counter", "inet", "foreign", name))
            for name in ("right", "every")
        )
        assert right == every > 0
    finally:
        worker.nft("delete table inet foreign")


def test_another_programs_use_of_our_bits_steers_nothing(lab: Lab) -> None:
    lab.pods["routed"].tag(0)
    worker = lab.nodes["w1"]
    worker.nft(
        "table inet foreign { chain pre { type filter hook prerouting priority -150;"
        " iifname { vethrouted, vethunselected } meta mark set 0x00100000; }; };"
        "table bridge foreign { chain pre { type filter hook prerouting priority -350;"
        " iifname vethunselected meta mark set 0x00100000; }; }"
    )
    try:
        assert lab.pods["routed"].seen_as() == W1
        assert lab.pods["unselected"].seen_as() == W1
    finally:
        worker.nft("delete table inet foreign; delete table bridge foreign")


def test_a_pod_with_another_tag_goes_by_its_own_ways(lab: Lab) -> None:
    lab.pods["bridged"].tag(OTHER_TAG)
    assert lab.pods["bridged"].seen_as() == G2
    assert lab.pods["routed"].seen_as() == G1


@pytest.mark.parametrize("pod", ["bridged", "routed"])
def test_a_tag_without_a_policy_set_lets_nothing_pass(lab: Lab, pod: str) -> None:
    lab.pods[pod].tag(ids.GROUP_BLOCKED - ids.GROUP_BASE)
    before = refused(lab, "w1")
    with lab.witness() as witness:
        for address in (SERVICE, EXCLUDED):
            with pytest.raises(TimeoutError):
                lab.pods[pod].connect(address, seconds=0.3)
        assert witness.sources() == set()
    after = refused(lab, "w1")
    assert after["no_gateway"] > before["no_gateway"], after


def test_isolated_gateway_forwards_nothing_new(lab: Lab) -> None:
    with lab.pods["bridged"].connect() as conversation:
        lab.nodes["g1"].ensure(plan("g1", isolated=True))
        with pytest.raises(TimeoutError):
            lab.pods["bridged"].connect(seconds=0.3)
        assert conversation.echo()


def _count(listing: str) -> int:
    return int(listing.split("packets ")[1].split()[0])


def _offered_segment(sniffer: socket.socket) -> int:
    """Return the maximum segment size in the first SYN to the service (RFC 9293, section 3.2)."""
    while True:
        packet = sniffer.recv(2048)
        if packet[9] != socket.IPPROTO_TCP or packet[16:20] != socket.inet_aton(SERVICE):
            continue
        tcp = packet[(packet[0] & 15) * 4 :]
        if tcp[13] & 0x12 == 0x02:
            options = tcp[20 : (tcp[12] >> 4) * 4]
            with contextlib.suppress(ValueError):
                at = options.index(b"\x02\x04")
                return int(struct.unpack_from("!H", options, at + 2)[0])
