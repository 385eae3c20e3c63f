"""The base chains in which several parts have rules."""

from __future__ import annotations

import re

from cni.datapath import objects
from cni.datapath.hooks import chains
from cni.datapath.nft_blocks import Marks
from tests.netns import datapath_lab

from .test_objects import plan

BASE = re.compile(r"\tchain (\S+) \{\n\t\ttype \S+ hook (\S+) priority ([^;]+);")


def test_there_is_one_base_chain_for_each_hook_and_priority() -> None:
    for table in objects.node_nft(plan("g1")).split("\ntable ")[1:]:
        hooks = [(hook, priority) for _, hook, priority in BASE.findall(table)]
        assert len(hooks) == len(set(hooks))


def test_a_pod_cannot_send_to_the_port_of_the_tunnels() -> None:
    text = "".join(chains(plan("w1"), Marks(plan("w1"))))
    body = text[text.index("chain forward_guard") :]
    rules = [line.strip() for line in body.partition("}")[0].splitlines()]
    to_others = rules[2 : rules.index("meta l4proto udp jump forwarded_datagram")]
    assert len(to_others) == 3
    assert all("th dport != 4799 " in rule for rule in to_others), "all others are judged by the port first"
    assert "udp dport 4799 counter drop" in text


def test_the_first_rule_of_a_hook_compares_without_a_set() -> None:
    for name in ("w1", "g1"):
        for table in objects.node_nft(plan(name)).split("\ntable ")[1:]:
            for chain, hook, _ in BASE.findall(table):
                first = table.partition(f"chain {chain} {{")[2].splitlines()[2]
                assert "accept" in first or "nat" in chain, (hook, first)
                assert "@" not in first


def rules_of(name: str) -> list[str]:
    wanted = datapath_lab.plan("w1")
    text = "".join(chains(wanted, Marks(wanted)))
    lines = text.partition(f"chain {name} {{\n")[2].partition("\t}")[0].splitlines()
    return [line.strip() for line in lines if not line.strip().startswith("type ")]


def test_packets_of_the_tunnels_meet_two_rules_before_they_are_judged() -> None:
    first, second = rules_of("input_guard")[:2]
    assert first.startswith("th dport != 4799 "), "the first rule ends at its first comparison"
    assert second == "udp dport 4799 goto tunnel_receive"


def test_a_selected_pods_packet_to_a_guarded_port_passes_the_guard_before_the_check_of_its_source() -> None:
    rules = rules_of("arrival")
    guards = [number for number, rule in enumerate(rules) if "dport 7947 " in rule and "!=" not in rule]
    assert guards
    assert all("th dport != 7947 " in rule for rule in rules[: guards[0]])
