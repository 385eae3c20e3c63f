"""Label selectors, as Kubernetes has them."""

from __future__ import annotations

from typing import Any

import pytest

from cni.plan import Requirement
from gateway_agent.manifests import selectors
from gateway_agent.manifests.fields import Fields, Report


def parsed(value: dict[str, Any]) -> tuple[tuple[Requirement, ...], list[str]]:
    report = Report("a.yaml")
    found = selectors.requirements(Fields(value, "podSelector", report))
    return found, [f"{problem.path}: {problem.message}" for problem in report.problems]


def test_both_forms_together() -> None:
    found, problems = parsed(
        {
            "matchLabels": {"b": "2", "a": "1"},
            "matchExpressions": [{"key": "x/y", "operator": "NotIn", "values": ["v"]}],
        }
    )
    assert problems == []
    assert found == (
        Requirement("a", "In", ("1",)),
        Requirement("b", "In", ("2",)),
        Requirement("x/y", "NotIn", ("v",)),
    )


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ({"key": "a", "operator": "In"}, "podSelector.matchExpressions[0].values: is required with In"),
        ({"key": "a", "operator": "Exists", "values": ["x"]},
         "podSelector.matchExpressions[0].values: has no meaning with Exists"),
        ({"key": "a", "operator": "in", "values": ["x"]},
         "podSelector.matchExpressions[0].operator: 'in' is not known"),
        ({"key": "-a", "operator": "Exists"}, "podSelector.matchExpressions[0].key: '-a' cannot be the key of a label"),
        ({"key": "a", "operator": "In", "values": ["x y"]},
         "podSelector.matchExpressions[0].values[0]: 'x y' cannot be the value of a label"),
    ],
)  # fmt: skip
def test_a_wrong_expression_names_its_field(expression: dict[str, Any], problem: str) -> None:
    assert parsed({"matchExpressions": [expression]})[1][:1] == [problem]


def test_a_plain_map_is_a_selector_of_nodes() -> None:
    plain = Fields({"role": "egress"}, "nodeSelector", Report("a.yaml"))
    assert selectors.node_requirements(plain) == (Requirement("role", "In", ("egress",)),)
    form = Fields({"matchLabels": {"role": "egress"}}, "nodeSelector", Report("a.yaml"))
    assert selectors.node_requirements(form) == (Requirement("role", "In", ("egress",)),)


def test_values_that_yaml_reads_as_no_text_are_left_out() -> None:
    report = Report("a.yaml")
    assert selectors.labels({"good": "x", "on": True, 1: "y"}, "labels", report) == {"good": "x"}
    assert [problem.path for problem in report.problems] == ["labels.on", "labels.1"]


@pytest.mark.parametrize(
    ("name", "good"),
    [("a", True), ("a.b-c", True), ("a" * 253, True), ("a" * 254, False), ("A", False), ("-a", False), ("a..b", False),
     ("", False), ("a\n", False)],
)  # fmt: skip
def test_names_of_objects(name: str, good: bool) -> None:
    assert selectors.is_name(name) is good
