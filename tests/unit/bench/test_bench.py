"""What the benches run and what they write, without running them."""

from __future__ import annotations

import pytest

from tests.bench.failover import ALL_TIMERS, EQUAL, parts, text, verdict
from tests.bench.keepalived import master_down
from tests.bench.results import Result, Results
from tests.bench.rival import RIVAL_FAILURES
from tests.bench.virtual import VIRTUAL_FAILURES
from tests.bench.virtual_loads import text as loads_text
from tests.bench.virtual_loads import verdict as loads_verdict


def test_keepalived_waits_for_three_adverts_and_the_skew() -> None:
    assert master_down(0.05, 100) == pytest.approx(0.15 + 156 / 256 * 0.05)
    assert master_down(0.05) == master_down(0.05, 100) < master_down(0.05, 99)


def test_the_equal_lease_is_no_longer_than_keepalived_waits() -> None:
    assert EQUAL.lease == {"heartbeat": "50ms", "duration": "180ms"}


def test_each_failure_is_run_with_each_timers_and_keepalived_once_with_each_interval() -> None:
    found = parts((), ())
    ours = [(timers.name, name) for timers, rivals, name in found if not rivals]
    everything = {failure.name for failure in VIRTUAL_FAILURES}
    assert len(ours) == len(set(ours))
    assert set(ours) == {
        (timers.name, name)
        for timers in ALL_TIMERS
        for name in everything
        if not timers.only or name in timers.only
    }
    rivals = [(timers.rival, name) for timers, rivals, name in found if rivals]
    assert len(rivals) == len(set(rivals)) == 2 * len(RIVAL_FAILURES)


def test_a_part_has_its_rival_beside_it() -> None:
    assert [(timers.name, rivals) for timers, rivals, _ in parts(["equal"], ["node cut off"])] == [
        ("equal", True),
        ("equal", False),
    ]
    both = [timers.name for timers, rivals, name in parts((), ()) if rivals and (timers.rival, name) in (
        (EQUAL.rival, failure) for failure in EQUAL.only
    )]  # fmt: skip
    assert both == ["equal"] * len(EQUAL.only), "in the same lab as what it is compared with"


def test_the_section_has_the_verdict_as_it_is_and_what_was_wrong() -> None:
    results = Results(None)
    for contender, silence, problems in (
        (EQUAL.rival, 160.0, ()),
        (EQUAL.contender, 170.0, ("an observer paused for 60 ms",)),
    ):
        results.add(
            Result("node cut off", contender, 1.0, silence, 100, 0.0, problems), "Measured on Monday."
        )
    (line,) = verdict(results)
    assert "**not met**" in line
    written = text(results, "the command", "plot.png")
    assert line in written
    assert "Measured on Monday." in written
    assert "an observer paused for 60 ms" in written
    assert "![Silence at each failure](plot.png)" in written


def test_many_addresses_are_judged_by_the_medians_of_their_last() -> None:
    one = [
        {"addresses": 1, "lost": 1, "first": last, "last": last, "keeper": 1.0}
        for last in (200.0, 210.0, 900.0)
    ]
    many = [
        {"addresses": 64, "lost": lost, "first": 220.0, "last": 420.0, "keeper": 9.0} for lost in (16, 22, 11)
    ]
    assert loads_verdict(one, many)[1]
    assert not loads_verdict(one, [{**run, "last": 420.1} for run in many])[1]
    fates = {
        "alive": 990,
        "reset": 10,
        "hung": 0,
        "slowest_reset": 250.0,
        "longest_pause": 300.0,
        "delayed": 7,
    }
    written = loads_text(
        {"addresses": [one, many], "connections": {"without": {"cut off": [fates]}}}, "the command"
    )
    assert "| 64 | 11–22 | 3 | 220 | 420 | 420 | 9 |" in written
    assert "| 1000, without | cut off | 1 | 990 | 10 | 0 | 7 | 300 |" in written
