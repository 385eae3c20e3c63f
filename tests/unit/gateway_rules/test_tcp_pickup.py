"""Rules for connections in their middle, as text; real connections: ``tests/e2e/test_routing_connections.py``."""

from __future__ import annotations

import re

import pytest

from cni.datapath.nft_blocks import Marks
from cni.plan import PlanEgressIP
from gateway_agent.gateway_rules import tcp_pickup

from ..cni.datapath.test_objects import plan

BASIC = PlanEgressIP("1" * 16, "basic", "", 1, 1, ("g1",), interface="eth1", source="172.16.0.7")
FOUR = PlanEgressIP("4" * 16, "four", "172.16.0.50", 2, 2, ("g1",), interface="eth1", source="172.16.0.50")
SIX = PlanEgressIP("6" * 16, "six", "2001:db8::50", 3, 3, ("g1",), interface="eth1", source6="2001:db8::50")


def text(*ready: PlanEgressIP) -> str:
    return "".join(tcp_pickup.chains(ready, Marks(plan("g1"))))


def test_in_basic_mode_a_connection_in_its_middle_is_reset_and_nothing_is_remembered() -> None:
    rules = text(BASIC)
    assert f'"{BASIC.device}" : goto middle_basic' in rules
    assert re.search(r"chain middle_basic \{\n\t\tcounter reject with tcp reset", rules)
    assert "set " not in rules


@pytest.mark.parametrize("ready", [(FOUR,), (SIX,), (FOUR, SIX), (BASIC, FOUR, SIX)])
def test_every_set_and_chain_that_a_rule_names_is_there_and_none_is_for_nothing(
    ready: tuple[PlanEgressIP, ...],
) -> None:
    rules = text(*ready)
    made = set(re.findall(r"^\t(?:set|map|chain) (\w+) \{", rules, re.MULTILINE))
    named = set(re.findall(r"@(\w+)", rules)) | set(re.findall(r"goto (\w+)", rules))
    assert named == made - {"tcp_pickup"}
    families = {str(egress.family) for egress in ready if egress.address}
    of_basic = {"middle", "middle_to", "middle_basic", "pickup_out", "pickup_back"}
    assert {name[-1] for name in named - of_basic} == families


def test_each_family_looks_at_its_own_packets() -> None:
    for line in text(FOUR, SIX).splitlines():
        for family, keyword in (("4", "ip6 "), ("6", "ip ")):
            if re.search(rf"(@|goto )\w+{family}\b", line):
                assert f" {keyword}" not in f" {line.strip()}", line


def test_sets_are_bounded_in_size_and_time() -> None:
    bodies = re.findall(r"^\tset \w+ \{\n(.*?)^\t\}", text(FOUR), re.MULTILINE | re.DOTALL)
    assert len(bodies) == 6
    for body in bodies:
        assert f"size {tcp_pickup.MAX_ELEMENTS}" in body
        assert re.search(r"timeout \d+m?s\n", body)


def test_an_add_to_a_set_ends_no_verdict() -> None:
    """A full set ends the rule that adds to it: a verdict behind the ``add`` would be lost."""
    adds = [line for line in text(FOUR, SIX).splitlines() if re.match(r"\s*(add|delete) @", line)]
    assert adds
    assert all(line.rstrip().endswith("}") for line in adds)
