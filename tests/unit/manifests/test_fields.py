"""Fields of a document that are read one by one."""

from __future__ import annotations

from typing import Any

import pytest

from gateway_agent.manifests.fields import (
    MAX_ITEMS,
    MAX_PROBLEMS,
    Fields,
    Report,
    is_unicode,
    kind_of,
    resembling,
)


def reading(value: dict[Any, Any]) -> Fields:
    return Fields(value, "spec", Report("a.yaml"))


def problems(fields: Fields) -> list[tuple[str, str]]:
    return [(problem.path, problem.message) for problem in fields.report.problems]


def test_good_fields_are_read_without_a_problem() -> None:
    fields = reading(
        {"text": "a", "flag": True, "whole": 3, "choice": "On", "map": {"in": "x"}, "list": ["p", "q"]}
    )
    assert fields.text("text") == "a"
    assert fields.flag("flag")
    assert fields.whole("whole", 1, 0, 5) == 3
    assert fields.choice("choice", ("On", "Off")) == "On"
    inner = fields.fields("map")
    assert inner is not None
    assert inner.text("in") == "x"
    assert list(fields.texts("list")) == [("spec.list[0]", "p"), ("spec.list[1]", "q")]
    fields.end()
    assert problems(fields) == []


@pytest.mark.parametrize("absent", [{}, {"name": None}])
def test_an_absent_field_is_its_default_and_an_error_only_if_required(absent: dict[str, Any]) -> None:
    fields = reading(absent)
    assert (fields.text("name", "x"), fields.flag("name"), fields.whole("name", 7, 0, 9)) == ("x", False, 7)
    assert fields.fields("name") is None
    assert list(fields.items("name")) == []
    assert problems(fields) == []
    fields.text("name", required=True)
    assert problems(fields) == [("spec.name", "is required")]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "must be a text, not a number"),
        (True, "must be a text, not a boolean"),
        (["a"], "must be a text, not a list"),
        ("\ud800", "'\\ud800' is no valid Unicode"),
    ],
)
def test_a_wrong_value_is_a_problem_and_read_as_the_default(value: Any, message: str) -> None:
    fields = reading({"name": value})
    assert fields.text("name", "default") == "default"
    assert problems(fields) == [("spec.name", message)]


@pytest.mark.parametrize("value", [True, 1.5, "1", -1, 10])
def test_a_whole_number_has_bounds(value: Any) -> None:
    fields = reading({"n": value})
    assert fields.whole("n", 4, 0, 9) == 4
    assert problems(fields) == [("spec.n", "must be a whole number from 0 to 9")]


def test_unknown_fields_are_reported_with_the_most_similar_known_one() -> None:
    fields = reading({"nodeselector": {}, "mode": "x"})
    fields.raw("nodeSelector")
    fields.end(besides=("mode",))
    [problem] = fields.report.problems
    assert (problem.path, problem.message, problem.hint) == (
        "spec.nodeselector", "unknown field", "did you mean 'nodeSelector'?",
    )  # fmt: skip


def test_a_list_that_is_too_long_is_not_read() -> None:
    fields = reading({"list": ["x"] * (MAX_ITEMS + 1)})
    assert list(fields.texts("list")) == []
    assert problems(fields) == [("spec.list", f"has {MAX_ITEMS + 1} items; {MAX_ITEMS} are allowed")]


def test_the_list_of_problems_has_an_end() -> None:
    report = Report("a.yaml")
    for number in range(2 * MAX_PROBLEMS):
        report.add(f"spec.items[{number}]", "is wrong")
    assert len(report.problems) == MAX_PROBLEMS + 1
    assert report.problems[-1].message == "has more problems than are listed"


def test_type_names_for_people() -> None:
    values: tuple[object, ...] = (None, 1, "", {}, [], False)
    assert [kind_of(value) for value in values] == [
        "empty", "a number", "a text", "a mapping", "a list", "a boolean",
    ]  # fmt: skip
    assert resembling("partnr", ["bank", "partner"]) == "did you mean 'partner'?"
    assert resembling("zzz", ["b", "a"]) == "known: a, b"
    assert resembling("zzz", []) == ""
    assert is_unicode("é")
    assert not is_unicode("\udfff")
