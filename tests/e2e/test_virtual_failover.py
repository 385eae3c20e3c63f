"""Each failure of a master with a virtual address, once: the short form of ``tests/bench/failover.py``.

With ``connectionSync``: without it, answers that are under way at a planned handover find nobody who knows them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..bench.basic_failover import MAX_RATIO, yardstick
from ..bench.failures import Failure
from ..bench.virtual import MAX_OBSERVER_PAUSE_MS, VIRTUAL_FAILURES, VirtualRun, measure, prepare, problems
from ..lab import topology
from ..lab.lab import Lab
from ..lab.pod import Pod
from ..lab.silence import summary
from .conftest import BACKEND, GATEWAY, LOGS

YARDSTICK_RUNS = 5
ATTEMPTS = 3
"""Largest number of attempts to measure a failure: a busy machine only lengthens a silence, so the shortest one
counts.
"""


@pytest.fixture(scope="module")
def bench(plugin: Path) -> Iterator[tuple[Lab, Pod, float]]:
    """Yield a lab, a pod in it, and the longest silence that is allowed, in milliseconds."""
    with Lab(topology.separate(workers=1)) as lab:
        try:
            bound = MAX_RATIO * summary(yardstick(lab, YARDSTICK_RUNS)).median
            prepare(lab, GATEWAY, connection_sync=True)
            yield lab, lab.nodes["w1"].pod("backend-1", BACKEND), bound
        finally:
            lab.save_logs(LOGS / "test_virtual_failover")


@pytest.mark.parametrize("failure", VIRTUAL_FAILURES, ids=lambda failure: failure.name)
def test_never_two_owners_and_traffic_passes_again_soon(
    bench: tuple[Lab, Pod, float], failure: Failure
) -> None:
    lab, pod, bound = bench
    runs = [measure(lab, GATEWAY, pod, failure)]
    while _held_up(failure, runs[-1], bound) and len(runs) < ATTEMPTS:
        runs.append(measure(lab, GATEWAY, pod, failure))
    for run in runs:
        assert (run.overlap, run.wrong) == (0.0, ())
    assert problems(failure, runs[-1], bound) == []


def _held_up(failure: Failure, run: VirtualRun, bound: float) -> bool:
    """Whether it may be the machine's doing. That a packet is lost where none should be, is not."""
    return run.blind > MAX_OBSERVER_PAUSE_MS or (failure.silent and run.silence > bound)
