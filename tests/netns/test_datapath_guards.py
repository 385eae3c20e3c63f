"""What must not get out, whatever somebody takes away: leaks, forged packets, and their repair."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from dataclasses import replace

import pytest

from cni.kernel import ids
from cni.kernel.netlink.conntrack import ctnetlink
from cni.plan import Destination, PolicySet
from tests.lab.packets import send, udp
from tests.lab.waiting import until

from .datapath_lab import EXCLUDED, FIRST, NODES, SECOND, SERVICE, SERVICE6, TAG, Lab, plan, v6, vxlan_packet
from .datapath_traffic import PORT, is_reset

G1, G2, W1 = "172.16.0.7", "172.16.0.8", "10.0.0.11"
VNI = ids.vni(FIRST)
DEVICE = ids.device(VNI)

DAMAGE = {
    "rule": ("ip", "rule", "del", "priority", "901"),
    "route": ("ip", "route", "del", "default", "dev", DEVICE, "table", "7001"),
    "routes": ("ip", "route", "flush", "table", "7001"),
    "device": ("ip", "link", "del", DEVICE),
    "device down": ("ip", "link", "set", DEVICE, "down"),
    "address": ("ip", "address", "flush", "dev", "egw-back"),
    "neighbour": ("ip", "neigh", "del", "169.254.233.2", "dev", DEVICE),
    "forwarding entry": (
        "bridge",
        "fdb",
        "del",
        ids.node_mac(NODES["g1"]),
        "dev",
        DEVICE,
        "dst",
        NODES["g1"],
    ),
    "return device": ("ip", "link", "del", "egw-back"),
    "sysctl": ("sysctl", "-qw", f"net.ipv4.conf.{DEVICE}.rp_filter=0"),
    "nft table": ("nft", "delete", "table", "inet", "egress_gateway_snat"),
    "nft chain": ("nft", "flush", "chain", "inet", "egress_gateway", "steer"),
}
"""Commands that damage a worker (``nft table``: the master)."""
HARMLESS = ("sysctl", "nft chain")
"""Damage in spite of which traffic may continue, or, without steering, cannot be told from an unselected pod's."""


def test_ensure_twice_changes_nothing(lab: Lab) -> None:
    for name, node in lab.nodes.items():
        assert node.ensure(plan(name)) == ()
        assert node.missing(plan(name)) == ()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_leaks_nothing_and_is_repaired(lab: Lab, damage: str) -> None:
    name = "g1" if damage == "nft table" else "w1"
    node = lab.nodes[name]
    node.machine.run(*DAMAGE[damage])
    pods = [lab.pods["bridged"], lab.pods["routed"]]
    if damage not in HARMLESS:
        with lab.witness() as witness:
            for pod in pods:
                with contextlib.suppress(OSError):
                    pod.connect(seconds=0.2).sock.close()
            assert witness.sources() <= {G1}
    problems, repaired = node.missing(plan(name)), node.ensure(plan(name))
    assert repaired
    if name == "w1":
        assert len(problems) > 0
    assert node.ensure(plan(name)) == ()
    assert [pod.seen_as() for pod in pods] == [G1, G1]


@pytest.mark.parametrize("change", ["add rule t c drop", "delete chain t out_2", "add chain t extra"])
def test_a_changed_table_is_noticed(lab: Lab, change: str) -> None:
    worker = lab.nodes["w1"]
    if change.startswith("delete"):
        worker.nft("flush map inet egress_gateway steered_to\nflush chain inet egress_gateway out_2")
    text = change.replace(" t ", " inet egress_gateway ").replace(" c ", " off_path ")
    worker.nft(text)
    assert "nftables table inet egress_gateway: changed by another program" in worker.missing(plan("w1"))
    assert worker.ensure(plan("w1")) == (
        "replaced nftables table inet egress_gateway: changed by another program",
    )
    assert worker.missing(plan("w1")) == ()


@pytest.mark.parametrize("pod", ["bridged", "routed"])
@pytest.mark.parametrize("edit", ["untag", "tag", "destination gone", "destination new"])
def test_an_edit_of_policies_ends_open_connections(lab: Lab, pod: str, edit: str) -> None:
    """Both ways: no connection goes on by the address that its policy no longer says."""
    client, worker = lab.pods[pod], lab.nodes["w1"]
    without = replace(
        plan("w1"),
        policy_sets=(PolicySet(TAG, ("a",), (SECOND,), (Destination("203.0.113.128/25", SECOND),)),),
    )
    steps: dict[str, tuple[Callable[[], object], Callable[[], object], str]] = {
        "untag": (lambda: client.tag(TAG), lambda: client.tag(0), G1),
        "tag": (lambda: client.tag(0), lambda: client.tag(TAG), W1),
        "destination gone": (lambda: None, lambda: worker.ensure(without), G1),
        "destination new": (lambda: worker.ensure(without), lambda: worker.ensure(plan("w1")), W1),
    }
    before, after, address = steps[edit]
    before()
    with client.connect() as conversation, client.datagrams() as datagrams:
        assert (conversation.seen_as, datagrams.seen_as()) == (address, address)
        with lab.witness() as witness:
            after()
            assert is_reset(conversation)
            with pytest.raises(TimeoutError):
                datagrams.seen_as()
            assert witness.sources() == set()
        _forget_connections(lab, client.address)
        changed = {G1: W1, W1: G1}[address]
        assert datagrams.seen_as() == changed, "once its connection is forgotten, UDP goes on"
        assert client.seen_as() == changed


@pytest.mark.parametrize("sender", ["bridged", "routed"])
def test_a_pod_cannot_forge_its_way_into_a_tunnel(lab: Lab, sender: str) -> None:
    inner = udp(NODES["w2"], SERVICE, PORT, b"forged")
    with lab.witness() as witness:
        pod = lab.pods[sender]
        send(pod.machine, vxlan_packet("w2", "g1", VNI, inner))
        send(pod.machine, vxlan_packet("w2", "g1", VNI, inner, outer=pod.address))
        # From a pod of the master itself, where nothing is forwarded on the way.
        send(lab.pods["onmaster"].machine, vxlan_packet("w2", "g1", VNI, inner))
        # From the node itself, without its guards, it comes through: the packets above were well made.
        lab.nodes["w2"].forge(vxlan_packet("w2", "g1", VNI, inner))
        until(lambda: len(witness.egress.packets(PORT)) > 0, "the node's own packet", seconds=2)
        assert len(witness.egress.packets(PORT)) == 1


def test_an_unsolicited_answer_gets_no_answer_by_the_workers_address(lab: Lab) -> None:
    with lab.pods["bridged"].datagrams() as datagrams, lab.witness() as witness:
        assert datagrams.seen_as() == G1
        _forget_connections(lab, lab.pods["bridged"].address)
        late = udp(SERVICE, G1, datagrams.sock.getsockname()[1], b"late", source_port=PORT)
        send(lab.outside, late)
        assert lab.pods["bridged"].seen_as() == G1, "this came after the late one"
        everything = [*witness.direct.packets(), *witness.egress.packets()]
        assert W1 not in {packet.source for packet in everything if packet.protocol == socket.IPPROTO_ICMP}


def test_ipv6_of_a_selected_pod_goes_nowhere(lab: Lab) -> None:
    """The way there exists: a pod that is not selected gets out by it."""
    with lab.witness() as witness:
        assert lab.pods["unselected"].seen_as(SERVICE6) == v6(NODES["w1"])
        with pytest.raises(OSError, match=r"unreachable|No route"):
            lab.pods["bridged"].connect(SERVICE6)
        sources = {packet.source for packet in witness.direct.packets() if ":" in packet.source}
        assert v6(lab.pods["bridged"].address) not in sources
        assert witness.sources() == {v6(NODES["w1"])}


def test_a_node_outside_the_inventory_drops(lab: Lab) -> None:
    worker = lab.nodes["w1"]
    worker.ensure(replace(plan("w1"), nodes=tuple(node for node in plan("w1").nodes if node.name != "w1")))
    with lab.witness() as witness:
        for pod in ("bridged", "routed"):
            with pytest.raises(OSError, match=r"unreachable|No route"):
                lab.pods[pod].connect()
        assert witness.sources() == set()
        assert lab.pods["bridged"].seen_as(EXCLUDED) == W1


def test_nothing_of_ours_is_left_by_an_empty_plan(lab: Lab) -> None:
    worker = lab.nodes["w1"]
    worker.machine.ip(
        "rule add priority 905 fwmark 5 lookup 7005 protocol 99",
        "route add unreachable default table 7005",
        "link add egress0 type bridge",
    )
    try:
        worker.ensure(replace(plan("w1"), egress_ips=(), policy_sets=()))
        assert "egw-" not in worker.machine.run("ip", "link")
        assert "905" in worker.machine.run("ip", "rule")
        assert "proto 233" not in worker.machine.run("ip", "route", "show", "table", "all")
        assert "unreachable" in worker.machine.run("ip", "route", "show", "table", "7005")
        assert "egress0" in worker.machine.run("ip", "link")
    finally:
        worker.machine.ip(
            "rule del priority 905", "route del unreachable default table 7005", "link del egress0"
        )


def _forget_connections(lab: Lab, source: str) -> None:
    assert lab.nodes["w1"].machine.inside(lambda: ctnetlink.delete_opened({source: lambda _: True})) >= 1
