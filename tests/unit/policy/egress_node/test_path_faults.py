"""The words for packets that do not get through a node, and which packets are tried."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cni.plan import Plan, PlanEgressIP, PlanNode
from gateway_agent.policy.egress_node import path_faults
from gateway_agent.policy.egress_node.exit_paths import Found, Lookup
from gateway_agent.policy.egress_node.path_faults import Answers, Dropped, TunnelProbe

EGRESS = PlanEgressIP(
    "0" * 16, "partner", "172.16.0.50", 1, 0xABCDEF, ("g1",), "g1", 1, False, "eth1", "172.16.0.50"
)
PLAN = Plan("g1", 0x0FF00000, 4799, 1450, (PlanNode("g1", "10.0.0.1"),), (EGRESS,))
PROBE = TunnelProbe(0xABCDEF, "10.0.0.11", "203.0.113.1")
LOST = "packets to 203.0.113.1 do not get from egw-abcdef to eth1"
FORWARD = Dropped("ip", "filter", "FORWARD", "FORWARD", "", True)


@pytest.mark.parametrize(
    ("dropped", "message"),
    [
        (
            FORWARD,
            "nftables table ip filter, chain FORWARD, drops them (the policy of the chain): "
            "iptables -I FORWARD -i egw-+ -j ACCEPT && iptables -I FORWARD -o egw-+ -j ACCEPT",
        ),
        (
            replace(FORWARD, family="ip6", table="mangle", chain="mine", rule="counter drop"),
            "nftables table ip6 mangle, chain mine, drops them (rule 'counter drop'): "
            "ip6tables -t mangle -I FORWARD -i egw-+ -j ACCEPT && ip6tables -t mangle -I FORWARD -o egw-+ -j ACCEPT",
        ),
        (
            replace(FORWARD, chain="ufw-reject-forward", rule="drop"),
            "nftables table ip filter, chain ufw-reject-forward, drops them (rule 'drop'): "
            "ufw route allow in on egw-abcdef out on eth1",
        ),
        (
            replace(FORWARD, legacy=True, hook="forward"),
            "iptables-legacy table filter, chain FORWARD, drops them (the policy of the chain): "
            "iptables-legacy -I FORWARD -i egw-+ -j ACCEPT && iptables-legacy -I FORWARD -o egw-+ -j ACCEPT",
        ),
        (
            Dropped("inet", "firewalld", "filter_FORWARD_ZONES", "filter_FORWARD", "reject", True),
            "nftables table inet firewalld, chain filter_FORWARD_ZONES, drops them (rule 'reject'): "
            "firewall-cmd --permanent --zone=trusted --add-interface=egw-abcdef && firewall-cmd --reload",
        ),
        (
            Dropped("inet", "site", "last", "forward", "drop", True),
            "nftables table inet site, chain last, drops them (rule 'drop'): "
            'nft insert rule inet site forward iifname "egw-*" accept && '
            'nft insert rule inet site forward oifname "egw-*" accept',
        ),
        (
            Dropped("inet", "egress_gateway", "from_1", "forward_guard", "counter drop", True),
            "nftables table inet egress_gateway, chain from_1, drops them (rule 'counter drop'): "
            "another program changes marks, routes or addresses of these packets",
        ),
        (
            Dropped("inet", "site", "last", "last", "drop", True, "postrouting"),
            "nftables table inet site, chain last, drops them (rule 'drop'): "
            'nft insert rule inet site last oifname "eth1" accept',
        ),
        (
            Dropped("ip", "mangle", "POSTROUTING", "POSTROUTING", "", True, "postrouting"),
            "nftables table ip mangle, chain POSTROUTING, drops them (the policy of the chain): "
            "iptables -t mangle -I POSTROUTING -o eth1 -j ACCEPT",
        ),
        (
            replace(FORWARD, certain=False),
            "they are lost behind nftables table ip filter, chain FORWARD, by a rule of iptables-legacy, or another "
            "hook of the kernel (see iptables-legacy -S)",
        ),
        (None, "this node's firewall lets nothing in from its own address by lo"),
    ],
)
def test_the_reason_names_the_place_and_what_to_do(dropped: Dropped | None, message: str) -> None:
    assert path_faults.reason(EGRESS, PROBE, dropped) == f"{LOST}: {message}"


def test_a_long_rule_is_cut() -> None:
    message = path_faults.reason(EGRESS, PROBE, replace(FORWARD, rule="x" * 5000))
    assert f"(rule '{'x' * 119}…')" in message


def lookup(destination: str) -> Lookup:
    return Lookup(destination, "10.0.0.11", EGRESS.device, 0)


def leading(*destinations: str) -> dict[Lookup, Found]:
    """Return destinations that all go by one next hop."""
    return {lookup(each): Found("eth1", "172.16.0.1") for each in destinations}


def probe_to(destination: str) -> TunnelProbe:
    return replace(PROBE, destination=destination)


MANY = tuple(probe_to(f"203.0.113.{number}") for number in range(30))


def test_each_next_hop_is_tried_first_and_each_destination_once() -> None:
    asked = leading("203.0.113.1", "203.0.113.2", "203.0.113.3")
    asked |= {lookup("198.51.100.1"): Found("eth1", "172.16.0.9"), lookup("172.16.0.77"): Found("eth1")}
    assert [probe.destination for probe in path_faults.probes(PLAN, EGRESS, asked)] == [
        "203.0.113.1", "198.51.100.1", "172.16.0.77", "203.0.113.2", "203.0.113.3",
    ]  # fmt: skip


def test_all_destinations_take_turns() -> None:
    rounds = [path_faults.of_round(MANY, (), turn) for turn in range(7)]
    assert all(len(each) == 8 and each[:4] == MANY[:4] for each in rounds)
    assert {probe for each in rounds for probe in each} == set(MANY)


@pytest.mark.parametrize("number", range(9))
def test_few_destinations_are_tried_in_each_round(number: int) -> None:
    for turn in range(9):
        assert sorted(path_faults.of_round(MANY[:number], (), turn)) == sorted(MANY[:number])


def test_what_was_lost_is_tried_again_in_the_next_round() -> None:
    lost = path_faults.of_round(MANY, (), 2)
    for turn in range(9):
        assert set(lost) <= set(path_faults.of_round(MANY, lost, turn))
        assert len(path_faults.of_round(MANY, lost, turn)) <= 12


def test_a_gateways_own_address_is_not_tried() -> None:
    [probe] = path_faults.probes(PLAN, EGRESS, leading(EGRESS.address, "203.0.113.1"))
    assert probe.destination == "203.0.113.1"


@pytest.mark.parametrize("plan", [replace(PLAN, isolated=True), replace(PLAN, node="elsewhere")])
def test_nothing_is_tried_while_this_node_opens_no_connection(plan: Plan) -> None:
    assert path_faults.probes(plan, EGRESS, leading("203.0.113.1")) == ()


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ((0, 0), (100, 100), ""),
        ((0, 0), (100, 50), ""),
        (
            (100, 100),
            (120, 100),
            "20 of 20 answers from outside did not get into a tunnel: a firewall of this node",
        ),
        ((100, 100), (200, 105), "95 of 100 answers from outside did not get into a tunnel"),
    ],
)
def test_nearly_all_answers_must_be_dropped(
    before: tuple[int, int], now: tuple[int, int], message: str
) -> None:
    window = Answers(*now).since(Answers(*before))
    assert window
    assert window.enough
    found = path_faults.dropped_answers(window)
    assert found.startswith(message) and bool(found) == bool(message)


def test_a_window_needs_answers_and_counters_that_go_up() -> None:
    few = Answers(119, 100).since(Answers(100, 100))
    assert few
    assert not few.enough
    assert Answers(5, 5).since(Answers(100, 100)) is None
