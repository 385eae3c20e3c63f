"""Nine addresses on three nodes, one of which is lost: only its own move, and the others share them evenly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..lab import documents, topology
from ..lab.lab import Lab
from ..lab.waiting import until
from .conftest import GATEWAY, settled

ADDRESSES = [f"172.16.0.{last}" for last in range(71, 80)]


@pytest.fixture
def lab(plugin: Path) -> Iterator[Lab]:
    story = documents.virtual_story(ADDRESSES, GATEWAY)
    with settled("test_spread", topology.separate(workers=1), story=story) as made:
        yield made


def masters(lab: Lab) -> dict[str, str]:
    """By address, as the worker sees it."""
    return {egress["ip"]: egress["master"] for egress in lab.nodes["w1"].agent.status()["egressIPs"]}


def loads(lab: Lab) -> list[int]:
    """How many addresses each of the nodes serves that serve any; nothing while one of them has no master."""
    serving = list(masters(lab).values())
    return [] if "" in serving else sorted(serving.count(node) for node in set(serving))


def test_in_the_first_seconds_after_the_start_too_only_what_is_lost_moves(lab: Lab) -> None:
    until(lambda: loads(lab) == [3, 3, 3], "nine addresses spread evenly over three nodes", 20)
    before = masters(lab)
    lost = before[ADDRESSES[0]]
    lab.cut(lost)
    until(lambda: lost not in masters(lab).values() and loads(lab) == [4, 5], "the survivors share evenly")
    after = masters(lab)
    assert {address for address in ADDRESSES if before[address] != after[address]} == {
        address for address in ADDRESSES if before[address] == lost
    }
