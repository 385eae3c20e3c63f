"""The numbers of refused packets, of leases and of the API: each chain that drops has a reason with a name."""

from __future__ import annotations

import re
from dataclasses import replace

import msgspec
import pytest

from cni.kernel import ids
from gateway_agent.adapters.kernel.kernel_thread import texts
from gateway_agent.gateway_rules import pod_guard
from gateway_agent.lease.ipc import Heartbeats
from gateway_agent.show.metrics.families import Observation
from gateway_agent.show.metrics.node_counters import NodeCounters
from gateway_agent.show.metrics.packets import OTHER, REASONS, of_api, of_refused, reason_of

from .test_families import samples, value, view
from .test_node import names

TABLE = re.compile(r"^table \w+ (\w+) {\n(.*?)^}", re.MULTILINE | re.DOTALL)
CHAIN = re.compile(r"^\tchain (\w+) {\n(.*?)^\t}", re.MULTILINE | re.DOTALL)
DROP = re.compile(r"\bdrop\b")


def test_a_chain_name_has_one_reason() -> None:
    named = [chain for chains in REASONS.values() for chain in chains.split()]
    assert len(named) == len(set(named))


@pytest.mark.parametrize(
    ("table", "chain", "reason"),
    [
        (ids.NFT_FENCE, "stale", "no_lease"),
        (ids.NFT_GUARD, "whatever", "guard"),
        (ids.NFT_NODE_INET, "out", "no_path"),
        (ids.NFT_NODE_INET, "out_17", "no_path"),
        (ids.NFT_NODE_INET, "steer_4_9", OTHER),
        (ids.NFT_NODE_INET, "17", OTHER),
        (ids.NFT_NODE_INET, "", OTHER),
    ],
)
def test_a_number_in_the_name_of_a_chain_does_not_count(table: str, chain: str, reason: str) -> None:
    assert reason_of(table, chain) == reason


def test_each_chain_that_drops_packets_has_a_reason_with_a_name() -> None:
    rules = (*texts(view().plan, ("eth1",)), pod_guard.guard_nft(("10.0.0.0/8",), ()))
    dropping = {
        (table, chain)
        for text in rules
        for table, body in TABLE.findall(text)
        for chain, lines in CHAIN.findall(body)
        if DROP.search(lines)
    }
    assert len(dropping) > 20, "the rules are read"
    assert {table for table, _ in dropping} >= {ids.NFT_FENCE, ids.NFT_GUARD, ids.NFT_NODE_INET}
    assert {each for each in dropping if reason_of(*each) == OTHER} == set()


def test_no_packet_is_lost_between_the_reasons() -> None:
    refused = {(ids.NFT_NODE_INET, f"out_{n}"): n for n in range(9)} | {("foreign", "x"): 5}
    family = of_refused("g1", refused)
    assert sum(sample.value for sample in family.samples) == sum(refused.values())
    assert {sample.labels["reason"] for sample in family.samples} == {*REASONS, OTHER}
    assert not of_refused("g1", None).samples, "unknown is not 0"
    assert {sample.value for sample in of_refused("g1", {}).samples} == {0}


def test_errors_of_the_api_are_in_the_order_of_resources() -> None:
    found = of_api("g1", {"pods": 2, "nodes": 1}).samples
    assert [(sample.labels["resource"], sample.value) for sample in found] == [("nodes", 1), ("pods", 2)]


def test_refused_packets_by_reason() -> None:
    refused = {
        (ids.NFT_FENCE, "allow4"): 1, (ids.NFT_FENCE, "allow6"): 2, (ids.NFT_GUARD, "unjudged"): 3,
        (ids.NFT_NODE_INET, "own_source"): 4, (ids.NFT_GATEWAY, "unsolicited"): 5, (ids.NFT_GATEWAY, "stale"): 6,
        (ids.NFT_NODE_INET, "no_master"): 9, (ids.NFT_NODE_INET, "tagged"): 10,
        (ids.NFT_NODE_INET, "out_17"): 7, (ids.NFT_NODE_INET, "of_a_newer_version"): 8,
    }  # fmt: skip
    seen = Observation("g1", view(), kernel=NodeCounters(refused=refused))
    found = {
        labels["reason"]: number
        for (name, pairs), number in samples(seen).items()
        if name.endswith("refused_packets_total") and (labels := dict(pairs))
    }
    assert {reason: number for reason, number in found.items() if number} == {
        "no_lease": 3, "guard": 3, "forged": 4, "unsolicited": 5, "stale": 6, "no_path": 7, "other": 8,
        "no_master": 9, "no_gateway": 10,
    }  # fmt: skip
    assert "egress_gateway_refused_packets_total" not in names(view()), "the kernel says nothing"


def test_heartbeats_and_what_was_left_of_leases() -> None:
    seen = view()
    assert seen.lease_daemon is not None
    first = msgspec.structs.replace(seen.lease_daemon.egress[0], margin_ms=87)
    state = msgspec.structs.replace(
        seen.lease_daemon, heartbeats=Heartbeats(9, 2), egress=(first, *seen.lease_daemon.egress[1:])
    )
    reported = Observation("g1", replace(seen, lease_daemon=state))
    assert value(reported, "heartbeats_sent_total") == 9
    assert value(reported, "heartbeats_late_total") == 2
    margins = [
        number for (name, _), number in samples(reported).items() if name.endswith("lease_margin_seconds")
    ]
    assert margins == [0.087]
