"""Pods that a selector takes: True, False, or that it depends on labels that are not known."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from cni.label_selector import (
    NAMESPACE_LABEL,
    NAMESPACE_NAME,
    PodIdentity,
    Requirement,
    Selector,
    matches,
)

HAS_A = Requirement("a", "Exists")
IN_PROD = Requirement(NAMESPACE_LABEL, "In", ("prod",))
NAMED_PROD = Requirement(NAMESPACE_NAME, "In", ("prod",))
TEAM_X = Requirement("team", "In", ("x",))
POD = PodIdentity("prod", "web-0", {"a": "1"})
UNKNOWN = PodIdentity("prod", "web-0", None)
ELSEWHERE = PodIdentity("test", "web-0", None)


@pytest.mark.parametrize(
    ("operator", "values", "one", "other", "none"),
    [
        ("In", ("1",), True, False, False),
        ("In", (), False, False, False),
        ("NotIn", ("1",), False, True, True),
        ("Exists", (), True, True, False),
        ("DoesNotExist", (), False, False, True),
    ],
)
def test_an_operator_judges_a_value_another_value_and_none(
    operator: str, values: tuple[str, ...], one: bool, other: bool, none: bool
) -> None:
    term = Requirement("a", operator, values)
    assert [term.holds(labels) for labels in ({"a": "1"}, {"a": "2"}, {"b": "1"})] == [one, other, none]


def test_every_requirement_must_hold_and_no_requirement_matches_everything() -> None:
    assert matches((), {})
    assert matches((HAS_A, Requirement("b", "Exists")), {"a": "", "b": ""})
    assert not matches((HAS_A, Requirement("b", "Exists")), {"a": ""})


@pytest.mark.parametrize(
    ("selector", "pod", "of_namespace", "selected"),
    [
        (Selector((HAS_A,)), POD, None, True),
        (Selector((HAS_A,)), PodIdentity("prod", "web-0", {}), None, False),
        (Selector((HAS_A,)), UNKNOWN, None, None),
        (Selector(), UNKNOWN, None, True),
        (Selector((IN_PROD,)), UNKNOWN, None, True),
        (Selector((IN_PROD, HAS_A)), UNKNOWN, None, None),
        (Selector((IN_PROD, HAS_A)), ELSEWHERE, None, False),
        (Selector((), (TEAM_X,)), UNKNOWN, {"team": "x"}, True),
        (Selector((), (TEAM_X,)), UNKNOWN, {"team": "y"}, False),
        (Selector((), (TEAM_X,)), UNKNOWN, None, False),
        (Selector((HAS_A,), (TEAM_X,)), UNKNOWN, {"team": "x"}, None),
        (Selector((), (NAMED_PROD,)), UNKNOWN, None, True),
        (Selector((), (NAMED_PROD,)), ELSEWHERE, None, False),
        (Selector((HAS_A,), ()), POD, None, True),
    ],
)
def test_a_pod_is_selected_or_not_or_its_labels_decide(
    selector: Selector, pod: PodIdentity, of_namespace: Mapping[str, str] | None, selected: bool | None
) -> None:
    assert selector.selects(pod, of_namespace) is selected


def test_a_pod_cannot_say_by_a_label_that_it_is_of_another_namespace() -> None:
    liar = PodIdentity("test", "web-0", {NAMESPACE_LABEL: "prod"})
    assert Selector((IN_PROD,)).selects(liar, None) is False


@pytest.mark.parametrize(
    ("selector", "pod", "asks"),
    [
        (Selector((HAS_A,)), POD, False),
        (Selector((HAS_A,), (NAMED_PROD,)), POD, False),
        (Selector((HAS_A,), (TEAM_X,)), POD, True),
        (Selector((HAS_A,), (TEAM_X,)), UNKNOWN, True),
        (Selector((HAS_A,), (TEAM_X,)), PodIdentity("prod", "web-0", {}), False),
        (Selector((HAS_A,), (TEAM_X, NAMED_PROD)), PodIdentity("test", "web-0", {"a": ""}), False),
    ],
)
def test_labels_of_a_namespace_matter_if_all_else_selects_the_pod(
    selector: Selector, pod: PodIdentity, asks: bool
) -> None:
    assert selector.asks_namespace_of(pod) is asks
