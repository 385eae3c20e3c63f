"""Both families of pods by tunnels over IPv6, and nodes that differ in the family of their addresses."""

from __future__ import annotations

import contextlib
import errno
import struct
from dataclasses import replace

import pytest

from cni.kernel import ids
from cni.plan import PlanNode
from tests.lab.capture import Capture
from tests.lab.packets import send, udp
from tests.lab.vxlan import TUNNEL_PRIORITY
from tests.lab.waiting import until

from .datapath_lab import FIRST, NODES, OTHER_SERVICE, SERVICE, SERVICE6, Lab, v6
from .datapath_lab import VIRTUAL6 as VIRTUAL
from .datapath_traffic import PORT
from .dual_stack_lab import SIXTH, install, plan6, put, take

G1, W1 = "172.16.0.7", "10.0.0.11"
EVERY_POD = ("bridged", "routed", "twin", "routedtwin", "onmaster", "onstandby")
UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES)


@pytest.mark.parametrize("pod", EVERY_POD)
def test_over_ipv6_both_families_pass(over6: Lab, pod: str) -> None:
    client = over6.pods[pod]
    with (
        over6.witness() as witness,
        Capture(over6.nodes["g1"].machine, "eth0") as arriving,
        client.datagrams(SERVICE6) as datagrams6,
        client.datagrams(SERVICE) as datagrams,
    ):
        assert client.seen_as(SERVICE6) == datagrams6.seen_as() == VIRTUAL
        assert client.seen_as(SERVICE) == datagrams.seen_as() == G1
        assert witness.sources() == {VIRTUAL, G1}
        assert arriving.sources(4799) == (set() if pod == "onmaster" else {v6(client.node.address)})
    assert client.node.missing(plan6(client.node.name, underlay=6)) == ()


@pytest.mark.parametrize("pod", ["bridged", "routed"])
def test_over_ipv6_a_worker_without_any_ipv4_serves_its_pods(over6: Lab, pod: str) -> None:
    """No route leads to where the answers come from, nor on the master to the worker's address in the tunnel."""
    client = over6.pods[pod]
    worker, master = client.node, over6.nodes["g1"]
    worker.machine.ip(f"address del {worker.address}/24 dev eth0", "route flush default")
    # Its way out is a narrow one: no route leads to where the worker's packets come from inside the tunnel.
    master.machine.ip("route del default", f"route add {SERVICE}/32 via 172.16.0.254")
    try:
        install(over6, underlay=6, source_check=True)
        with over6.witness() as witness, client.datagrams(SERVICE) as datagrams:
            with pytest.raises(TimeoutError):
                datagrams.seen_as()
            install(over6, underlay=6, source_check=False)
            assert client.seen_as(SERVICE) == datagrams.seen_as() == G1
            assert client.seen_as(SERVICE6) == VIRTUAL
            assert witness.sources() <= {VIRTUAL, G1}
    finally:
        worker.machine.ip(f"address add {worker.address}/24 dev eth0", "route add default via 10.0.0.254")
        master.machine.ip(f"route del {SERVICE}/32", "route add default via 172.16.0.254")


def test_over_ipv6_pods_with_one_address_talk_at_the_same_time(over6: Lab) -> None:
    pods = [over6.pods[name] for name in ("bridged", "twin", "onmaster")]
    with contextlib.ExitStack() as stack:
        for service, seen in ((SERVICE, G1), (SERVICE6, VIRTUAL)):
            talks = [stack.enter_context(pod.connect(service, port=5000)) for pod in pods]
            assert {talk.seen_as for talk in talks} == {seen}
            assert all(talk.echo() for talk in talks * 2)


def test_over_ipv6_failover_keeps_connections(over6: Lab) -> None:
    with over6.pods["bridged"].connect(SERVICE6) as conversation, over6.witness() as witness:
        take(over6.nodes["g1"])
        put(over6.nodes["g2"])
        over6.nodes["w1"].set_master(SIXTH, v6(NODES["g2"]), family=6)
        assert conversation.echo()
        over6.nodes["w1"].set_master(FIRST, v6(NODES["g2"]))
        assert over6.pods["bridged"].seen_as(SERVICE) == "172.16.0.8"
        assert witness.sources() == {VIRTUAL, "172.16.0.8"}


@pytest.mark.parametrize("sender", ["bridged", "routed"])
def test_over_ipv6_a_pod_cannot_forge_its_way_into_a_tunnel(over6: Lab, sender: str) -> None:
    w2, g1 = v6(NODES["w2"]), v6(NODES["g1"])
    inner = udp(ids.inner(w2, 6), SERVICE6, PORT, b"forged")
    macs = bytes.fromhex((ids.node_mac(g1) + ids.node_mac(w2)).replace(":", ""))
    frame = struct.pack("!II", 0x08000000, ids.vni(SIXTH) << 8) + macs + b"\x86\xdd" + inner

    def forged(source: str) -> bytes:
        return udp(source, g1, 4799, frame)

    with over6.witness() as witness:
        pod = over6.pods[sender]
        for source in (w2, v6(pod.address)):
            send(pod.machine, forged(source))
        # From a pod of the master itself, where nothing is forwarded on the way.
        send(over6.pods["onmaster"].machine, forged(w2))
        for priority in (0, TUNNEL_PRIORITY):
            with pytest.raises(PermissionError):
                send(over6.nodes["w2"].machine, forged(w2), priority=priority)
        by_ipv4 = udp(NODES["w2"], NODES["g1"], 4799, frame)
        over6.nodes["w2"].forge(by_ipv4)
        another = udp(ids.inner(v6(NODES["w1"]), 6), SERVICE6, PORT, b"forged")
        over6.nodes["w2"].forge(udp(w2, g1, 4799, frame[: -len(inner)] + another))
        # From the node itself, without its guards, it comes through: the packets above were well made.
        over6.nodes["w2"].forge(forged(w2))
        until(lambda: len(witness.egress.packets(PORT)) > 0, "the node's own packet", seconds=2)
        assert len(witness.egress.packets(PORT)) == 1


def test_from_a_tunnel_over_ipv4_to_one_over_ipv6_and_back(lab6: Lab) -> None:
    for underlay in (6, 4, 6):
        install(lab6, underlay=underlay)
        assert lab6.pods["bridged"].seen_as(SERVICE6) == VIRTUAL
        assert lab6.pods["routed"].seen_as(SERVICE) == G1


def test_nodes_of_the_other_underlay_are_out_of_reach(lab6: Lab) -> None:
    """A tunnel has ends of one family: who has another address is cut off, and disturbs nobody."""
    worker = lab6.nodes["w1"]
    planned = plan6("w1")
    mixed = tuple(PlanNode("g1", v6(NODES["g1"])) if node.name == "g1" else node for node in planned.nodes)
    worker.ensure(replace(planned, nodes=mixed))
    assert worker.missing(replace(planned, nodes=mixed)) == ()
    with lab6.witness() as witness:
        for service in (SERVICE, SERVICE6):
            with pytest.raises(OSError) as failure:
                lab6.pods["bridged"].connect(service)
            assert failure.value.errno in UNREACHABLE
        assert lab6.pods["bridged"].seen_as(OTHER_SERVICE) == "172.16.0.8", "its master is in reach"
        assert witness.sources() == {"172.16.0.8"}
