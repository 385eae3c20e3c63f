"""Every way in which four egress nodes can be parted from each other. Workers and the LAN stay connected to all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from ..bench.virtual import ALONE_MS, RECOVERY_S, prepare
from ..lab import topology
from ..lab.lab import Lab
from ..lab.partition import parted, partitions
from ..lab.topology import VIRTUAL
from ..lab.waiting import until
from ..lab.watch import Watch
from .conftest import BACKEND, GATEWAY, LOGS

NODES = ("g1", "g2", "g3", "g4")
STAYS_MS = 500.0
"""Milliseconds in which all was as expected: twice a lease, so a node that still had one has fallen silent."""
Groups = tuple[tuple[str, ...], ...]


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with Lab(topology.separate(workers=1, gateways=len(NODES))) as made:
        try:
            prepare(made, GATEWAY)
            made.nodes["w1"].pod("backend-1", BACKEND)
            yield made
        finally:
            made.save_logs(LOGS / "test_partitions")


@contextmanager
def watching(lab: Lab) -> Iterator[Watch]:
    """Nothing that must never happen has happened, and exactly one node speaks soon after the end."""
    with Watch(lab, [VIRTUAL], list(lab.nodes["w1"].pods.values())) as watch:
        yield watch
        until(lambda: watch.alone(ALONE_MS), "exactly one owner", RECOVERY_S)
        until(watch.passes, "traffic passes", RECOVERY_S)
        assert watch.end() == []


def voters(lab: Lab) -> tuple[str, ...]:
    """Return the voter set, where all agents know the same one; else empty."""
    said = {(s["voterSet"], *s["voters"]) for s in (node.agent.status() for node in lab.nodes.values())}
    return said.pop()[1:] if len(said) == 1 else ()


def able(groups: Groups, voting: tuple[str, ...]) -> tuple[str, ...]:
    """Return the group that has a majority of the voters; empty if none has."""
    return next((group for group in groups if 2 * len({*group} & {*voting}) > len(voting)), ())


def as_expected(watch: Watch, group: tuple[str, ...]) -> bool:
    """Exactly one of ``group`` speaks, for a while; where it is empty, nobody does."""
    if not group:
        return watch.owners(STAYS_MS) == {VIRTUAL: ()}
    return watch.owner(STAYS_MS) in group


@pytest.mark.parametrize(
    "groups", list(partitions(NODES)), ids=lambda groups: " ".join("+".join(g) for g in groups)
)
def test_only_a_majority_of_the_voters_serves(lab: Lab, groups: Groups) -> None:
    voting = until(partial(voters, lab), "all agents know the same voters")
    group = able(groups, voting)
    with watching(lab) as watch:
        before = until(lambda: watch.owner(ALONE_MS), "one serves", RECOVERY_S)
        with parted(lab, groups):
            until(lambda: as_expected(watch, group), f"of {voting} a majority is in {group}", RECOVERY_S)
            if group:
                until(watch.passes, "traffic passes", RECOVERY_S)
            if before in group:
                assert watch.failovers() == [], "whoever can stay, stays"


def test_the_partitions_are_all_there_are() -> None:
    found = list(partitions(NODES))
    assert len(found) == len(set(found)) == 15
    assert all(sorted(name for group in groups for name in group) == sorted(NODES) for groups in found)
