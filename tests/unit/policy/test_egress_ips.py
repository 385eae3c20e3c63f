"""The egress IPs of gateways with virtual addresses: who may serve which, and where the address is to stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from cni.kernel import ids
from cni.plan import Plan, PlanEgressIP, PlanNode, Requirement
from gateway_agent.manifests.model import (
    BASIC,
    VIRTUAL_IP,
    Gateway,
    Inventory,
    Node,
    Policy,
    Problem,
    Routing,
)
from gateway_agent.policy import egress_ips
from gateway_agent.policy.egress_ips import interface_for
from gateway_agent.policy.egress_node.readiness import InterfaceFacts

EGRESS = (Requirement("role", "In", ("egress",)),)
NODES = (
    Node("g1", {"role": "egress"}, ("10.0.0.7", "fd00::7")),
    Node("g2", {"role": "egress"}, ("10.0.0.8",)),
    Node("w1", {}, ("10.0.0.21",)),
)
PLACED = tuple(PlanNode(node.name, node.addresses[0]) for node in NODES)
BARE = InterfaceFacts(up=True, carrier=True, mtu=1500, addresses=(), forwarding=True)


def gateway(name: str, *addresses: str, interfaces: tuple[str, ...] = ()) -> Gateway:
    return Gateway(
        name, EGRESS, VIRTUAL_IP, addresses=addresses, interfaces=interfaces, source=f"{name}.yaml"
    )


def planned(*gateways: Gateway) -> tuple[dict[tuple[str, str], PlanEgressIP], list[Problem]]:
    problems: list[Problem] = []
    found = list(egress_ips.of(Inventory(gateways, (), NODES), PLACED, problems))
    assert len({egress.vni for egress in found}) == len(found)
    return {(egress.gateway, egress.address): egress for egress in found}, problems


def with_addresses(**addresses: str) -> dict[str, InterfaceFacts]:
    return {name: replace(BARE, addresses=tuple(texts.split())) for name, texts in addresses.items()}


def test_each_address_of_a_gateway_is_an_egress_ip() -> None:
    found, problems = planned(gateway("partner", "172.16.0.78", "172.16.0.50", "2001:db8::50"))
    assert not problems
    assert [(e.address, e.family) for e in found.values()] == [
        ("172.16.0.78", 4), ("172.16.0.50", 4), ("2001:db8::50", 6),
    ]  # fmt: skip
    for (name, address), egress in found.items():
        assert egress.id == ids.egress_id(name, address)
        assert (egress.vni, egress.mode, egress.eligible) == (ids.vni(egress.id), VIRTUAL_IP, ("g1", "g2"))


def test_an_address_of_two_gateways_stays_with_the_first() -> None:
    found, problems = planned(gateway("b", "172.16.0.1", "172.16.0.50"), gateway("a", "172.16.0.50"))
    assert found["a", "172.16.0.50"].eligible == found["b", "172.16.0.1"].eligible == ("g1", "g2")
    assert found["b", "172.16.0.50"].eligible == ()
    [problem] = problems
    assert (problem.source, problem.path) == ("b.yaml", "spec.sourceIP.virtualIPAddress.ips[1]")
    assert "172.16.0.50 is an address of gateway a too" in problem.message


def test_an_address_of_two_gateways_stays_with_the_older_one() -> None:
    """A gateway that is created later takes no address away, whatever its name is."""
    older = replace(gateway("b", "172.16.0.50"), created="2026-01-01T00:00:00Z")
    for created in ("2026-01-02T00:00:00Z", ""):
        younger = replace(gateway("a", "172.16.0.50"), created=created)
        found, problems = planned(older, younger)
        assert found["b", "172.16.0.50"].eligible == ("g1", "g2")
        assert found["a", "172.16.0.50"].eligible == ()
        assert [problem.source for problem in problems] == ["a.yaml"]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("10.0.0.21", "is the address of node w1"),
        ("fd00::7", "is the address of node g1"),
        ("127.0.0.1", "cannot be a host's address: loopback"),
        ("224.0.0.1", "multicast"),
        ("169.254.233.1", "link-local"),
        ("fe80::1", "link-local"),
        ("::ffff:10.0.0.21", "an IPv4 address in IPv6 form, write it as IPv4"),
        ("64:ff9b::a00:15", "behind NAT64"),
        ("2002:a00:15::1", "6to4"),
        ("fec0::1", "site-local"),
    ],
)
def test_an_address_that_no_node_may_take(address: str, message: str) -> None:
    found, problems = planned(gateway("partner", address))
    assert found["partner", address].eligible == ()
    [problem] = problems
    assert problem.path == "spec.sourceIP.virtualIPAddress.ip"
    assert message in problem.message


def test_a_gateway_without_an_address_still_takes_its_packets() -> None:
    found, problems = planned(gateway("partner"))
    assert found["partner", ""].eligible == ()
    assert ["there is no address" in problem.message for problem in problems] == [True]


def test_a_gateway_that_selects_no_node_says_so_once() -> None:
    unknown = replace(
        gateway("partner", "172.16.0.50", "172.16.0.51"), node_selector=(Requirement("a", "Exists"),)
    )
    found, problems = planned(unknown)
    assert [egress.eligible for egress in found.values()] == [(), ()]
    assert [problem.path for problem in problems] == ["spec.nodeSelector"]


def test_two_addresses_of_one_tunnel_number() -> None:
    # Found by search: the first 24 bits of the hashes are the same.
    twins = ("10.9.26.68", "10.9.16.65")
    assert len({ids.vni(ids.egress_id("partner", address)) for address in twins}) == 1
    found, problems = planned(gateway("partner", *twins))
    first, second = sorted(twins)
    assert (found["partner", first].eligible, found["partner", second].eligible) == (("g1", "g2"), ())
    [problem] = problems
    assert problem.path == f"spec.sourceIP.virtualIPAddress.ips[{twins.index(second)}]"
    assert f"{second} has the tunnel number of partner {first}" in problem.message


def test_the_order_in_which_addresses_are_written_decides_nothing_but_the_order() -> None:
    addresses = ("10.9.26.68", "10.9.16.65", "172.16.0.50")
    one, _ = planned(gateway("partner", *addresses))
    other, _ = planned(gateway("partner", *reversed(addresses)))
    assert one == other
    assert list(one) == list(reversed(other))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("172.16.0.50", "eth1"),
        ("172.16.9.50", "eth2"),  # eth3 holds it too, in a shorter prefix
        ("172.17.0.50", "eth3"),
        ("192.0.2.50", "eth4"),  # as eth5: by name
        ("203.0.113.50", "eth0"),  # the default route's
        ("10.244.0.9", "eth0"),  # a pod's veth
        ("10.1.2.3", "eth0"),  # alone on its interface: no subnet
        ("127.0.0.9", "eth0"),
        ("169.254.233.9", "eth0"),
        ("2001:db8::50", "eth2"),
        ("2001:db9::50", ""),
    ],
)
def test_where_no_interface_is_named_the_nearest_subnet_counts(address: str, expected: str) -> None:
    facts: dict[str, InterfaceFacts] = with_addresses(
        lo="127.0.0.1/8 ::1/128", eth0="10.0.0.7/24", eth1="172.16.0.7/24", eth2="172.16.8.1/21 2001:db8::1/64",
        eth3="172.16.0.1/12", eth5="192.0.2.1/24", eth4="192.0.2.2/24", veth7="10.244.0.1/16", eth6="10.1.2.3/32",
    )  # fmt: skip
    facts["egw-back"] = replace(BARE, addresses=("169.254.233.1/24",))
    facts["eth0"] = replace(facts["eth0"], default_route=frozenset({4}))
    assert interface_for(address, (), facts, {"veth7"}) == expected
    assert interface_for(address, (), dict(reversed(facts.items())), {"veth7"}) == expected


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (("eth1",), "eth1"),
        (("eth0", "eth1"), "eth1"),  # holds the address
        (("eth2", "eth1"), "eth2"),  # the first that holds it, not the nearest
        (("gone", "eth0"), "eth0"),  # exists
        (("gone",), ""),  # and never the default route's
    ],
)
def test_named_interfaces_count_in_their_order(named: tuple[str, ...], expected: str) -> None:
    facts = with_addresses(eth0="10.0.0.7/24", eth1="172.16.0.7/24", eth2="172.16.0.8/12")
    facts["eth3"] = replace(BARE, default_route=frozenset({4, 6}))
    assert interface_for("172.16.0.50", named, facts, ()) == expected


def with_source(
    egress: PlanEgressIP, here: str, gateways: list[Gateway], facts: dict[str, InterfaceFacts]
) -> PlanEgressIP:
    [placed] = egress_ips.with_sources([egress], here, gateways, facts, (), {})
    return placed


def with_master(
    egress: PlanEgressIP,
    nodes: tuple[PlanNode, ...],
    masters: Mapping[str, tuple[str, int]],
    previous: Plan | None,
) -> PlanEgressIP:
    [led] = egress_ips.with_masters([egress], nodes, masters, previous)
    return led


def test_the_source_is_the_virtual_address_of_its_family() -> None:
    found, _ = planned(gateway("partner", "172.16.0.50", "2001:db8::50"))
    facts = with_addresses(eth1="172.16.0.7/24 2001:db8::7/64")

    def placed(address: str, here: str) -> tuple[str, str, str]:
        egress = found["partner", address]
        after = with_source(egress, here, [gateway("partner")], facts)
        return after.interface, after.source, after.source6

    assert placed("172.16.0.50", "g1") == ("eth1", "172.16.0.50", "")
    assert placed("2001:db8::50", "g1") == ("eth1", "", "2001:db8::50")
    assert placed("172.16.0.50", "w1") == ("", "", "")


MASTERS: Mapping[str, tuple[str, int]] = {ids.egress_id("partner", "172.16.0.50"): ("w1", 7)}


def test_a_master_that_is_not_eligible_any_more_serves_until_another_is_known() -> None:
    [egress] = planned(gateway("partner", "172.16.0.50"))[0].values()
    still = with_master(egress, PLACED, MASTERS, None)
    assert (still.master, still.epoch) == ("w1", 7)
    facts = with_addresses(eth1="172.16.0.7/24")
    on_it = with_source(still, "w1", [gateway("partner")], facts)
    assert (on_it.interface, on_it.source) == ("eth1", "172.16.0.50"), "it forwards as long"
    previous = Plan("w1", 0xFF00000, 4799, 1450, egress_ips=(still,))
    assert with_master(egress, PLACED, {}, previous).master == "w1"
    assert with_master(egress, PLACED, {egress.id: ("g1", 8)}, previous).master == "g1"
    assert with_master(egress, PLACED, {egress.id: ("", 7)}, previous).master == ""


def test_a_master_that_no_tunnel_reaches_is_none() -> None:
    [egress] = planned(gateway("partner", "172.16.0.50"))[0].values()
    assert with_master(egress, PLACED[:2], MASTERS, None).master == ""
    unknown = replace(egress, eligible=())
    assert with_master(unknown, PLACED, MASTERS, None).master == "", "nobody may serve it"


def test_a_policy_of_a_gateway_that_is_not_there() -> None:
    problems: list[Problem] = []
    lone = Inventory(policies=(Policy("a", "gone", ()),), nodes=NODES)
    [egress] = egress_ips.of(lone, PLACED, problems)
    assert (egress.gateway, egress.mode, egress.eligible) == ("gone", BASIC, ())
    assert not problems, "the manifests have told it already"


@pytest.mark.parametrize(
    ("hop", "used"),
    [
        ("172.16.0.1", True), ("172.16.0.7", False), ("172.16.0.255", False), ("198.51.100.9", True),
        ("192.0.2.1", True), ("192.0.2.0", False), ("10.9.9.255", True), ("172.16.0.51", False),
    ],
)  # fmt: skip
def test_no_route_leads_by_an_address_that_the_kernel_refuses(hop: str, used: bool) -> None:
    shown = replace(gateway("a", "172.16.0.50", interfaces=("eth1",)), routing=Routing((hop,)))
    [egress] = planned(shown)[0].values()
    facts = with_addresses(eth0="192.0.2.0/31 198.51.100.8/32", eth1="172.16.0.7/24")
    gateways = [shown, gateway("b", "172.16.0.51")]
    assert with_source(egress, "g1", gateways, facts).next_hop == (hop if used else "")


@pytest.mark.parametrize(
    ("number", "used"),
    [
        (500, True),
        (254, True),
        (255, False),
        (0, False),
        (-1, False),
        (2**32, False),
        (ids.TABLE_BASE + 1, False),
        (ids.EXIT_TABLE_BASE + 1, False),
    ],
)
def test_a_table_by_its_name_is_judged_as_one_by_its_number(number: int, used: bool) -> None:
    """A name in the node's files may have any number; a wrong one must not fail the rounds of the whole node."""
    shown = replace(gateway("a", "172.16.0.50", interfaces=("eth1",)), routing=Routing(table_name="site"))
    [egress] = planned(shown)[0].values()
    facts = with_addresses(eth1="172.16.0.7/24")
    [placed] = egress_ips.with_sources([egress], "g1", [shown], facts, (), {"site": number})
    assert (placed.routed, placed.table) == (True, number if used else 0)
