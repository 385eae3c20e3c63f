"""The lease daemon's refreshes of the fence are not held up by an agent: its rules, its connections."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator

import pytest

from tests.lab.namespace import Namespace, fresh

TIMES = 20
SLOW_MS = 8.0
"""Milliseconds of a refresh that waits for a grace period of RCU; one that does not takes less than one."""


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with fresh("egwdp-beside") as made:
        yield made


def refreshes(machine: Namespace, kind: str, work: str) -> list[float]:
    """Return the milliseconds of each refresh beside a process that stays or that goes."""
    machine.run("nft", "flush", "ruleset")
    printed = machine.run(sys.executable, "-m", "tests.netns.fence_beside_agent", kind, work, str(TIMES))
    if work == "rules":
        assert f"0x{TIMES - 1:08x}" in machine.run("nft", "list", "table", "inet", "changing")
    return [float(taken) for taken in json.loads(printed)]


def slow(taken: list[float]) -> float:
    """Return the share of the time in which a refresh was held up."""
    return sum(each for each in taken if each > SLOW_MS) / sum(taken)


@pytest.mark.parametrize("work", ["rules", "connections"])
def test_a_process_that_keeps_its_sockets_holds_up_no_refresh(machine: Namespace, work: str) -> None:
    """Alternate with a process that closes its sockets: other load of the machine affects both alike."""
    shares: dict[str, list[float]] = {"stay": [], "go": []}
    for kind in ("stay", "go") * 3:
        shares[kind].append(slow(refreshes(machine, kind, work)))
    assert statistics.median(shares["stay"]) < 0.5 * statistics.median(shares["go"]), shares
