"""Nine addresses on three nodes, one of which is lost: only its own move, and the others share them evenly."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from gateway_agent.lease.mastership.masterless import REBALANCE_WINDOW_NS
from gateway_agent.lease.voting.protocol import SECOND

from ..lab import documents, topology
from ..lab.lab import Lab
from ..lab.waiting import until
from .conftest import GATEWAY, settled

ADDRESSES = [f"172.16.0.{last}" for last in range(71, 80)]


@pytest.fixture
def lab(plugin: Path) -> Iterator[Lab]:
    objects = documents.virtual_ip(ADDRESSES, GATEWAY)
    with settled("test_spread", topology.separate(workers=1), objects=objects) as made:
        yield made


def masters(lab: Lab) -> dict[str, str]:
    """By address, as the worker sees it."""
    return {egress["ip"]: egress["master"] for egress in lab.nodes["w1"].agent.status()["egressIPs"]}


def loads(lab: Lab) -> list[int]:
    """How many addresses each of the nodes serves that serve any; nothing while one of them has no master."""
    serving = list(masters(lab).values())
    return [] if "" in serving else sorted(serving.count(node) for node in set(serving))


def holding(lab: Lab, address: str) -> list[str]:
    """Return the nodes whose kernel has an address."""
    return [
        name
        for name, node in lab.nodes.items()
        if f" {address}/" in node.machine.run("ip", "address", "show")
    ]


def all_settled(lab: Lab) -> bool:
    """Whether what was taken over last is too old to be evened out."""
    changes = [e["at"] for e in json.loads(lab.nodes["w1"].egressctl("-o", "json", "events"))]
    return time.time() > max(map(_seconds, changes)) + 1 + REBALANCE_WINDOW_NS / SECOND


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


@pytest.mark.parametrize(
    "young", [True, False], ids=["in the first seconds after the start", "long after the start"]
)
def test_only_what_is_lost_moves_and_the_survivors_share_it_evenly(lab: Lab, young: bool) -> None:
    until(lambda: loads(lab) == [3, 3, 3], "nine addresses spread evenly over three nodes", 20)
    if not young:
        until(lambda: all_settled(lab), "no address is young", 40)
    before = masters(lab)
    lost = before[ADDRESSES[0]]
    lab.cut(lost)
    until(lambda: lost not in masters(lab).values() and loads(lab) == [4, 5], "the survivors share evenly")
    after = masters(lab)
    for address in ADDRESSES:
        until(lambda a=address: holding(lab, a) == [after[a]], f"{address} is in its master's kernel alone")  # type: ignore[misc]
    assert {address for address in ADDRESSES if before[address] != after[address]} == {
        address for address in ADDRESSES if before[address] == lost
    }
