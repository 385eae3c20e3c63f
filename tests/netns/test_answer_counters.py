"""The counters of answers, read from rules in the kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from cni.datapath.objects import node_nft
from cni.kernel import ids
from cni.plan import Plan, PlanEgressIP, PlanNode
from gateway_agent.adapters.probes import answer_counters
from gateway_agent.gateway_rules.snat import gateway_nft
from gateway_agent.policy.egress_node.path_faults import Answers

from ..lab.namespace import Namespace

ID = ids.egress_id("partner", "172.16.0.50")
EGRESS = PlanEgressIP(
    ID, "partner", "172.16.0.50", slot=1, vni=ids.vni(ID), eligible=("g1",), master="g1", interface="eth1",
    source="172.16.0.50",
)  # fmt: skip
NODES = (PlanNode("g1", "10.0.0.1"), PlanNode("w1", "10.0.0.11"))
PLAN = Plan("g1", 0x0FF00000, 4799, 1450, NODES, (EGRESS,))


@pytest.fixture
def machine() -> Iterator[Namespace]:
    made = Namespace("egwdp-counters")
    made.create()
    try:
        yield made
    finally:
        made.delete()


def counted(text: str, packets: int) -> str:
    """Return rules whose counters of answers begin with this number, and all others with 1."""
    first = re.sub(r"(ct direction reply [^\n]*)\bcounter ", rf"\1counter packets {packets} bytes 1 ", text)
    return re.sub(r"\bcounter (?!packets)", "counter packets 1 bytes 1 ", first)


def test_the_rules_of_a_master_are_found_by_what_they_compare(machine: Namespace) -> None:
    assert machine.inside(answer_counters.read) == Answers(0, 0), "without rules"
    for synced in (False, True):
        plan = replace(PLAN, egress_ips=(replace(EGRESS, sync=synced),))
        machine.run("nft", "-f", "-", text=counted(gateway_nft(plan), 7))
        machine.run("nft", "-f", "-", text=counted(node_nft(plan), 9))
        assert machine.inside(answer_counters.read) == Answers(7, 9)


def test_a_counter_of_the_other_direction_or_chain_is_none(machine: Namespace) -> None:
    rules = "ct direction original counter packets 3 bytes 1; ct state new counter packets 4 bytes 1"
    other = "ct direction reply counter packets 5 bytes 1"
    text = f"table inet {ids.NFT_GATEWAY} {{ chain ingress {{ {rules}; }}; chain other {{ {other}; }}; }}\n"
    machine.run("nft", "-f", "-", text=text)
    assert machine.inside(answer_counters.read) == Answers(0, 0)
