"""A random schedule of all faults: the short form of ``tests/bench/schedule.py``.

``SCHEDULE_SEED`` in the environment gives the faults of an earlier run again, ``SCHEDULE_FAILOVERS`` more or fewer.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from ..bench.schedule import Schedule, watched

FAILOVERS = int(os.environ.get("SCHEDULE_FAILOVERS", "20"))


def test_what_must_never_happen_does_not(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("SCHEDULE_SEED") or time.time_ns() % 1_000_000)
    with watched() as (lab, watch):
        report = Schedule(lab, watch, random.Random(seed), log=print).run(FAILOVERS)
    with capsys.disabled():
        print(f"\nseed {seed}: {report}")
    assert report.problems == [], f"seed {seed}"
    assert report.failovers.total() >= FAILOVERS
