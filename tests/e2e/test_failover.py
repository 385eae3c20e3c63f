"""Each failure twice, beside keepalived: the short form of ``tests/bench/basic_failover.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..bench.basic_failover import GATEWAY, MAX_RATIO, prepare, verdict, yardstick
from ..bench.failures import FAILURES, Failure, measure
from ..lab import topology
from ..lab.lab import Lab
from ..lab.pod import Pod
from ..lab.silence import summary
from .conftest import BACKEND, LOGS

RUNS = 2
YARDSTICK_RUNS = 5


@pytest.fixture(scope="module")
def bench(plugin: Path) -> Iterator[tuple[Lab, Pod, float]]:
    """Yield a lab, a pod in it, and the longest silence that is allowed, in milliseconds."""
    with Lab(topology.separate(workers=1)) as lab:
        try:
            bound = MAX_RATIO * summary(yardstick(lab, YARDSTICK_RUNS)).median
            prepare(lab)
            yield lab, lab.nodes["w1"].pod("backend-1", BACKEND), bound
        finally:
            lab.save_logs(LOGS / "test_failover")


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
def test_traffic_passes_again_soon(bench: tuple[Lab, Pod, float], failure: Failure) -> None:
    lab, pod, bound = bench
    runs = [measure(lab, GATEWAY, pod, failure) for _ in range(RUNS)]
    assert verdict(failure, runs, bound) == []
