"""The witnesses find two owners where there are two: keepalived, stopped, killed and isolated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from ..bench import keepalived, rival
from ..bench.rival import RIVAL_FAILURES, RivalFailure
from ..lab import topology
from ..lab.lab import Lab
from ..lab.overlap import SHORT_SILENCE_MS

INTERVAL_S = 0.05
"""Seconds between adverts."""
WATCHED_S = 1.0
"""Seconds that each failure lasts here."""
BELIEVED = 4 * INTERVAL_S
"""Seconds after which the other node believes that it is alone: three adverts and the skew."""
WITNESSED = 4 * SHORT_SILENCE_MS
"""Milliseconds. An overlap is cut into pieces if an observer gets no processor time for ``SHORT_SILENCE_MS``."""
TWO_OWNERS = {"node frozen", "keeper killed", "node isolated"}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(topology.separate(workers=0, gateways=2)) as made:
        keepalived.serve(made)
        yield made


@pytest.mark.parametrize("failure", RIVAL_FAILURES, ids=lambda failure: failure.name)
def test_keepalived(lab: Lab, failure: RivalFailure) -> None:
    (run,) = rival.measure(lab, INTERVAL_S, replace(failure, seconds=WATCHED_S))
    assert run.moved
    if failure.name in TWO_OWNERS:
        assert run.overlap > WITNESSED
    if failure.name == "node cut off":
        assert run.overlap == 0
        assert BELIEVED * 1000 / 2 < run.silence < WATCHED_S * 1000
