"""The counters of refused packets, read from rules in the kernel: every rule that refuses has its reason."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from cni.datapath.objects import node_nft
from cni.kernel import ids
from gateway_agent.adapters.probes import refused_packets
from gateway_agent.gateway_rules.snat import gateway_nft
from gateway_agent.show.metrics.packets import OTHER, reason_of

from ..lab.namespace import Namespace
from .test_answer_counters import PLAN


@pytest.fixture
def machine() -> Iterator[Namespace]:
    made = Namespace("egwdp-refused")
    made.create()
    try:
        yield made
    finally:
        made.delete()


def test_without_rules_nothing_is_refused(machine: Namespace) -> None:
    assert machine.inside(refused_packets.read) == {}


def test_rules_that_refuse_differ_from_those_that_count(machine: Namespace) -> None:
    rules = "counter packets 3 bytes 1 drop; counter packets 4 bytes 1 accept; counter packets 5 bytes 1"
    reject = "meta l4proto tcp counter packets 7 bytes 1 reject with tcp reset"
    other = "meta mark 1 counter packets 11 bytes 1 drop; meta mark 2 drop"
    text = f"table inet {ids.NFT_GATEWAY} {{ chain stale {{ {reject}; {rules}; }}; chain other {{ {other}; }}; }}\n"
    foreign = "table inet foreign { chain stale { counter packets 100 bytes 1 drop; }; }\n"
    machine.run("nft", "-f", "-", text=text + foreign)
    assert machine.inside(refused_packets.read) == {
        (ids.NFT_GATEWAY, "stale"): 10, (ids.NFT_GATEWAY, "other"): 11
    }  # fmt: skip


def test_every_chain_of_ours_that_refuses_has_a_reason(machine: Namespace) -> None:
    for text in (gateway_nft(PLAN), node_nft(PLAN)):
        machine.run("nft", "-f", "-", text=re.sub(r"\bcounter\b", "counter packets 2 bytes 1", text))
    found = machine.inside(refused_packets.read)
    assert len(found) > 10
    assert min(found.values()) >= 2
    assert " ".join(chain for table, chain in sorted(found) if reason_of(table, chain) == OTHER) == ""
