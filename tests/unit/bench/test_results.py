from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.results import Result, Results, compared
from tests.lab.silence import Summary

CUT = "node cut off"


def run(silence: float | None, contender: str = "ours", problems: tuple[str, ...] = ()) -> Result:
    return Result(
        CUT, contender, 1.5, silence, lost=3, overlap=0.0, problems=problems, detail={"after": "g2"}
    )


def test_what_was_interrupted_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "build" / "runs.json"
    first = Results(path)
    first.add(run(200.0), "Measured on Monday.")
    first.add(run(220.0), "Measured on Monday.")
    second = Results(path)
    second.add(run(230.0), "Measured on Tuesday.")
    assert Results(path).stored == second.stored
    assert second.stored.machines == ["Measured on Monday.", "Measured on Tuesday."]
    row = second.row(CUT, "ours")
    assert row is not None
    assert (row.silences, row.lost) == ([200.0, 220.0, 230.0], 3)


def test_a_run_that_did_not_end_counts_as_a_run_and_is_in_no_row() -> None:
    results = Results(None)
    results.add(run(None, problems=("not within 10 s",)), "")
    assert results.row(CUT, "ours") is None
    assert len(results.of(CUT, "ours")) == 1
    assert results.problems() == [f"{CUT}, ours: not within 10 s"]


def test_rows_come_in_the_order_that_is_asked_for() -> None:
    results = Results(None)
    results.add(run(1.0, "theirs"), "")
    results.add(run(2.0), "")
    assert [row.contender for row in results.rows([CUT, "node frozen"], ["ours", "theirs"])] == [
        "ours",
        "theirs",
    ]


def test_a_problem_of_several_runs_is_listed_once() -> None:
    results = Results(None)
    for _ in range(2):
        results.add(run(1.0, problems=("late",)), "")
    assert results.problems() == [f"{CUT}, ours: late (the worst of 2 runs)"]


def test_how_long_a_run_takes_is_known_from_those_that_are_most_alike() -> None:
    results = Results(None)
    assert results.pace(CUT, "ours") == 0
    results.add(Result("another", "theirs", 4.0, 1.0), "")
    assert results.pace(CUT, "ours") == 4
    results.add(Result("another", "ours", 2.0, 1.0), "")
    assert results.pace(CUT, "ours") == 2
    results.add(run(1.0), "")
    assert results.pace(CUT, "ours") == 1.5


@pytest.mark.parametrize(
    ("median", "worst", "met"),
    [(100.0, 260.0, True), (100.1, 200.0, False), (100.0, 260.1, False)],
)
def test_a_goal_is_met_by_the_median_and_by_the_worst(median: float, worst: float, met: bool) -> None:
    message, found = compared(Summary(50, median, worst), Summary(50, 100.0, 200.0))
    assert found is met
    assert ("**not met**" in message) is not met


def test_of_problems_that_differ_in_numbers_only_the_worst_is_listed(tmp_path: Path) -> None:
    results = Results(tmp_path / "runs.json")
    for silence in (410, 1135, 99):
        results.add(run(1.0, problems=(f"silent for {silence} ms, more than 400",)), "")
    assert results.problems() == [f"{CUT}, ours: silent for 1135 ms, more than 400 (the worst of 3 runs)"]
