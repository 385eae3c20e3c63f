from __future__ import annotations

from dataclasses import replace

import pytest

from tests.bench.virtual import MAX_OBSERVER_PAUSE_MS, VIRTUAL_FAILURES, VirtualRun, problems

BY_NAME = {failure.name: failure for failure in VIRTUAL_FAILURES}
CLEAN = VirtualRun("node cut off", "g1", "g2", 240.0, 239, 0.0, 1, 200.0, (), 2.0)


def test_a_clean_run_has_no_problems() -> None:
    assert problems(BY_NAME["node cut off"], CLEAN, 400) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"overlap": 0.5}, "two owners for 0.5 ms"),
        ({"wrong": ("172.16.0.7",)}, "packets left by 172.16.0.7"),
        ({"silence": 401.0}, "silent for 401 ms, more than 400"),
        ({"after": "g1"}, "the owner was g1 and is g1"),
        ({"blind": MAX_OBSERVER_PAUSE_MS + 1}, "an observer paused for 51 ms"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, object], expected: str) -> None:
    assert problems(BY_NAME["node cut off"], replace(CLEAN, **change), 400) == [expected]  # type: ignore[arg-type]


def test_a_planned_handover_may_lose_nothing() -> None:
    assert problems(BY_NAME["graceful stop"], CLEAN, 400) == [
        "239 datagrams were lost, though none should be"
    ]


def test_who_need_not_move_must_not() -> None:
    run = replace(CLEAN, silence=0.0, lost=0)
    assert problems(BY_NAME["agent killed"], run, 400) == ["the owner was g1 and is g2"]


def test_a_failure_that_moves_a_virtual_address_is_silent_unless_it_was_planned() -> None:
    quiet = {failure.name for failure in VIRTUAL_FAILURES if failure.moves and not failure.silent}
    assert quiet == {"graceful stop"}
    assert len(BY_NAME) == len(VIRTUAL_FAILURES)
