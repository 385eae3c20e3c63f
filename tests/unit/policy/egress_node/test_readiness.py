from __future__ import annotations

from dataclasses import replace

import pytest

from cni.kernel import ids
from cni.plan import PlanEgressIP
from gateway_agent.manifests.model import VIRTUAL_IP
from gateway_agent.policy.egress_node.readiness import (
    UNROUTED,
    InterfaceFacts,
    source_check,
    takes_ipv4,
    tunnel_mtu,
    unready,
)

IDENTITY = ids.egress_id("partner", "")
EGRESS = PlanEgressIP(
    IDENTITY, "partner", "", 1, ids.vni(IDENTITY), ("g1",), interface="eth1", source="172.16.0.7"
)
GOOD = InterfaceFacts(
    up=True, carrier=True, mtu=1500, addresses=("172.16.0.7/24", "172.16.0.8/24"), forwarding=True
)


def test_a_whole_interface_is_ready() -> None:
    assert unready(EGRESS, "eth1", {"eth1": GOOD}) == ""


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (None, "does not exist"),
        (replace(GOOD, up=False, carrier=False), "is down"),
        (replace(GOOD, carrier=False), "has no carrier"),
        (replace(GOOD, addresses=()), "has no IPv4 address"),
        (replace(GOOD, addresses=("fd00::1/64", "172.16.0.9/24")), "has just got address 172.16.0.9"),
        (replace(GOOD, forwarding=False), "net.ipv4.ip_forward=1"),
    ],
)
def test_each_fault_is_named(facts: InterfaceFacts | None, reason: str) -> None:
    assert reason in unready(EGRESS, "eth1", {"eth1": facts} if facts else {})


def test_a_silent_upstream_counts_last() -> None:
    assert unready(EGRESS, "eth1", {"eth1": GOOD}, ("172.16.0.1",)) == "upstream 172.16.0.1 does not answer"
    assert "down" in unready(EGRESS, "eth1", {"eth1": replace(GOOD, up=False)}, ("172.16.0.1",))


@pytest.mark.parametrize(("address", "mtu"), [("172.16.0.8", 1450), ("10.0.0.1", 1450), ("fd00::1", 1430)])
def test_the_tunnel_gets_what_the_underlay_leaves(address: str, mtu: int) -> None:
    assert tunnel_mtu({"eth1": GOOD}, address) == mtu


def test_a_jumbo_underlay_makes_a_jumbo_tunnel() -> None:
    assert tunnel_mtu({"eth0": replace(GOOD, mtu=9000)}, "172.16.0.7") == 8950


def virtual(address: str) -> PlanEgressIP:
    return replace(EGRESS, address=address, source=address, mode=VIRTUAL_IP)


FOUR, SIX = virtual("172.16.0.50"), virtual("2001:db8::50")
BOTH = replace(GOOD, addresses=(), forwarding6=True)


@pytest.mark.parametrize("egress", [FOUR, SIX])
def test_a_virtual_address_needs_no_other_on_its_interface(egress: PlanEgressIP) -> None:
    assert unready(egress, "eth1", {"eth1": BOTH}) == ""


@pytest.mark.parametrize(
    ("egress", "facts", "reason"),
    [
        (FOUR, None, "does not exist"),
        (FOUR, replace(BOTH, up=False, carrier=False), "is down"),
        (FOUR, replace(BOTH, carrier=False), "has no carrier"),
        (FOUR, replace(BOTH, forwarding=False), "net.ipv4.ip_forward=1"),
        (SIX, replace(BOTH, forwarding6=False), "net.ipv6.conf.all.forwarding=1"),
        (
            FOUR,
            replace(BOTH, foreign=frozenset({"172.16.0.50"})),
            "172.16.0.50 is configured on eth1 by another program",
        ),
    ],
)
def test_each_fault_of_a_virtual_address_is_named(
    egress: PlanEgressIP, facts: InterfaceFacts | None, reason: str
) -> None:
    assert reason in unready(egress, "eth1", {"eth1": facts} if facts else {})


def test_each_family_needs_its_own_forwarding_only() -> None:
    assert unready(FOUR, "eth1", {"eth1": replace(BOTH, forwarding6=False)}) == ""
    assert unready(SIX, "eth1", {"eth1": replace(BOTH, forwarding=False)}) == ""


def test_another_programs_address_counts_on_every_interface_and_others_do_not() -> None:
    elsewhere = {"eth1": BOTH, "lo": replace(BOTH, foreign=frozenset({"172.16.0.50"}))}
    assert unready(FOUR, "eth1", elsewhere) == "172.16.0.50 is configured on lo by another program"
    assert unready(virtual("172.16.0.51"), "eth1", elsewhere) == ""


def test_no_interface_for_a_virtual_address() -> None:
    assert unready(FOUR, "", {"eth1": BOTH}) == (
        "no interface for 172.16.0.50: none has a subnet that holds it, and there is no IPv4 default route"
    )
    assert "no IPv6 default route" in unready(SIX, "", {})
    named = unready(FOUR, "", {"eth1": BOTH}, (), ("eth7", "eth8"))
    assert named == "no interface for 172.16.0.50: there is no eth7 and no eth8"


ROUTED = replace(GOOD, default_route=frozenset({4}))
STRICT = replace(GOOD, source_check=1)


@pytest.mark.parametrize(
    ("facts", "underlay", "synced", "checked", "taken"),
    [
        (GOOD, 4, False, False, True),
        (STRICT, 4, False, True, True),
        (GOOD, 6, False, False, True),
        (STRICT, 6, False, True, False),
        (replace(ROUTED, source_check=2), 6, False, True, True),
        (replace(STRICT, default_route=frozenset({6})), 6, False, True, False),
        (GOOD, 4, True, False, True),
        (STRICT, 4, True, True, False),
        (replace(ROUTED, source_check=2), 4, True, True, True),
    ],
)
def test_ipv4_sources_that_are_no_nodes_address_need_a_route_or_no_check(
    facts: InterfaceFacts, underlay: int, synced: bool, checked: bool, taken: bool
) -> None:
    found = {"lo": replace(GOOD, addresses=()), "eth1": facts}
    derived = underlay == 6 or synced
    assert source_check(found) is checked
    assert takes_ipv4(found, derived) is taken
    assert unready(replace(EGRESS, sync=synced), "eth1", found, underlay=underlay) == (
        "" if taken else UNROUTED
    )
    assert unready(SIX, "eth1", {"eth1": replace(facts, forwarding6=True)}, underlay=underlay) == ""


ROUTER = replace(BOTH, addresses=("172.16.0.7/24", "2001:db8::7/64"), next_hops=frozenset({"172.16.0.254"}))


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("172.16.0.255", "172.16.0.255 is the broadcast address of the subnet of 172.16.0.7/24"),
        ("172.16.0.0", "172.16.0.0 is the network address of the subnet of 172.16.0.7/24"),
        ("2001:db8::", "2001:db8:: is the anycast address of the routers of the subnet of 2001:db8::7/64"),
        ("172.16.0.254", "172.16.0.254 is the next hop of this node's routes by eth1"),
        ("172.16.0.253", ""),
        ("2001:db8::ffff:ffff:ffff:ffff", ""),
    ],
)
def test_an_address_that_no_machine_or_another_one_must_have_is_refused(address: str, reason: str) -> None:
    found = unready(virtual(address), "eth1", {"eth1": ROUTER})
    assert found.startswith(reason) and bool(found) is bool(reason)


@pytest.mark.parametrize("subnet", ["172.16.0.50/31", "172.16.0.51/31", "172.16.0.50/32"])
def test_a_subnet_of_two_addresses_has_no_broadcast_address(subnet: str) -> None:
    assert unready(FOUR, "eth1", {"eth1": replace(BOTH, addresses=(subnet,))}) == ""


def test_ipv6_that_is_disabled_on_the_interface_is_named() -> None:
    off = {"eth1": replace(BOTH, ipv6=False)}
    assert "net.ipv6.conf.eth1.disable_ipv6=0" in unready(SIX, "eth1", off)
    assert unready(FOUR, "eth1", off) == ""


def test_an_interface_by_which_no_ipv6_neighbour_is_asked_is_named() -> None:
    silent = {"eth1": replace(BOTH, asks6=False)}
    assert unready(SIX, "eth1", silent).startswith("interface eth1 has no link-local address")
    assert unready(FOUR, "eth1", silent) == ""


def test_the_mtu_is_that_of_the_interfaces_that_packets_to_other_nodes_leave_by() -> None:
    """An address on the loopback device says nothing of the way: that device's MTU is 65,536 bytes."""
    routed = {
        "lo": replace(GOOD, mtu=65536),
        "eth0": replace(GOOD, addresses=()),
        "eth1": replace(GOOD, mtu=9000),
    }
    assert tunnel_mtu(routed, "172.16.0.7", ("eth0", "eth1")) == 1450
    assert tunnel_mtu(routed, "172.16.0.7", ("eth1",)) == 8950
    assert tunnel_mtu(routed, "172.16.0.7") == 8950, (
        "no route yet: the first that has the address, but for lo"
    )
    assert tunnel_mtu({"lo": replace(GOOD, mtu=65536)}, "172.16.0.7", ("lo", "gone")) == 1450
