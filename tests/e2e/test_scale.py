"""What a node costs in a large cluster, beside a small one in the same run: fails on a growth that is not there today.

Long form: :mod:`tests.bench.scale`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ..bench.scale import ratio
from ..bench.scale_lab import Costs, Size, measure

REST_S = 8.0
SMALL = Size()
GROWN = {"nodes": Size(nodes=1_000), "policies": Size(policies=300)}
LEAST = {"add": 0.1, "edit": 0.2, "worker_agent": 2.0, "egress_agent": 3.0}
"""A smaller cost counts as this much: seconds, percent."""
BOUNDS = {
    "nodes": {"first_answer": 2.5, "edit": 2.5, "add": 2.5, "worker_agent": 2.0, "egress_agent": 2.0},
    "policies": {"first_answer": 2.5, "edit": 2.5, "add": 2.5, "worker_agent": 2.0, "egress_agent": 2.0},
}
"""Largest ratio to the small cluster, or to :data:`LEAST`: about twice what is measured."""


@pytest.fixture(scope="module")
def small(plugin: Path) -> Costs:
    return measure(SMALL, REST_S)


@pytest.mark.parametrize("kind", GROWN)
def test_costs_do_not_grow_with_the_cluster(small: Costs, kind: str) -> None:
    large = measure(GROWN[kind], REST_S)
    grown = {
        name: ratio(getattr(large, name), max(getattr(small, name), LEAST.get(name, 0.0)))
        for name in BOUNDS[kind]
    }
    assert all(grown[name] <= bound for name, bound in BOUNDS[kind].items()), (grown, small, large)
