"""The cost of a small packet beside the path by hand, in turns: fails on a growth that is not there today.

Long form: :mod:`tests.bench.datapath`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.bench import handmade_path
from tests.bench.datapath import (
    HANDMADE,
    MANY,
    OURS,
    UNSELECTED,
    WITHOUT,
    Bench,
    Contender,
    fastest,
)
from tests.lab.witness import run_in_real_time

from .datapath_lab import Lab

TURNS = 6
LEAST = {"by hand": (OURS, HANDMADE, 0.65), "flat": (MANY, OURS, 0.85), "others": (UNSELECTED, WITHOUT, 0.7)}
"""Contender, what it is compared with, and the least share of its packets a second; measured: 0.86, 1.00 and 0.92."""


@pytest.fixture(scope="module")
def both_paths(shared_lab: Lab) -> Iterator[Lab]:
    shared_lab.reset()
    handmade_path.lay(shared_lab)
    yield shared_lab
    handmade_path.remove(shared_lab)
    shared_lab.reset()


@pytest.fixture
def real_time() -> Iterator[None]:
    """Give this process real-time priority during a test."""
    run_in_real_time()
    yield
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.mark.usefixtures("real_time")
@pytest.mark.parametrize(("contender", "beside", "least"), LEAST.values(), ids=LEAST)
def test_a_packet_costs_no_more_than_today(
    both_paths: Lab, contender: Contender, beside: Contender, least: float
) -> None:
    with Bench(both_paths, (contender, beside), (1,), tcp=False) as bench:
        found = bench.turns(TURNS)
    # What else the machine does makes a turn slower and none faster.
    best, other = (fastest(found[each.name]) for each in (contender, beside))
    shares = {measure: best[measure] / other[measure] for measure in best}
    assert all(share >= least for share in shares.values()), (shares, found)
