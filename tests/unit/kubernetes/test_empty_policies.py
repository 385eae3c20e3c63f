"""Whether a policy selects any pod: what is asked, of whom and when."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.plan import NAMESPACE_LABEL, PodIdentity, Requirement, Selector
from gateway_agent.kubernetes.empty_policies import (
    MAX_NAMESPACE_QUERIES,
    SETTLE_S,
    EmptyPolicyChecker,
    PodQuery,
    questions,
)
from gateway_agent.manifests.model import Policy
from tests.lab.apiserver.objects import selected

NAMESPACES = {"prod": {"team": "pay"}, "test": {"team": "pay"}, "other": {}}
BACKEND = Requirement("app", "In", ("backend", "front"))
IN_PROD = Requirement(NAMESPACE_LABEL, "In", ("prod",))
OF_PAY = (Requirement("team", "In", ("pay",)),)


@pytest.mark.parametrize(
    ("selector", "asked"),
    [
        (Selector((BACKEND,)), [("", "app in (backend,front)")]),
        (Selector((Requirement("a", "Exists"), Requirement("b", "DoesNotExist"))), [("", "a,!b")]),
        (Selector((Requirement("a", "NotIn", ("x",)),)), [("", "a notin (x)")]),
        (
            Selector((BACKEND,), OF_PAY),
            [("prod", "app in (backend,front)"), ("test", "app in (backend,front)")],
        ),
        (Selector((BACKEND, IN_PROD), OF_PAY), [("prod", "app in (backend,front)")]),
        (Selector((Requirement(NAMESPACE_LABEL, "In", ("nowhere",)),)), []),
        (Selector((), (Requirement("kubernetes.io/metadata.name", "In", ("other",)),)), [("other", "")]),
    ],
)
def test_what_is_asked(selector: Selector, asked: list[tuple[str, str]]) -> None:
    assert questions(Policy("p", "g", (selector,)), NAMESPACES) == [PodQuery(*each) for each in asked]


def test_of_many_namespaces_one_question() -> None:
    many = {f"n{number}": {"team": "pay"} for number in range(MAX_NAMESPACE_QUERIES + 1)}
    assert questions(Policy("p", "g", (Selector((BACKEND,), OF_PAY),)), many) == [
        PodQuery("", "app in (backend,front)")
    ]


terms = st.builds(
    Requirement,
    st.sampled_from(("a", "b", NAMESPACE_LABEL)),
    st.sampled_from(("In", "NotIn", "Exists", "DoesNotExist")),
    st.lists(st.sampled_from(("x", "prod")), min_size=1).map(tuple),
)
of_namespaces = st.builds(Requirement, st.just("team"), st.sampled_from(("In", "NotIn")), st.just(("pay",)))
selectors = st.builds(
    Selector,
    st.lists(terms, max_size=3).map(tuple),
    st.none() | st.lists(of_namespaces, max_size=2).map(tuple),
)
pods = st.builds(
    PodIdentity,
    st.sampled_from(sorted(NAMESPACES)),
    st.just("pod"),
    st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy")),
)


@given(st.lists(selectors, min_size=1, max_size=3), pods)
def test_the_api_says_what_the_selectors_say(listed: list[Selector], pod: PodIdentity) -> None:
    item = {"metadata": {"labels": dict(pod.labels or {})}}
    answers = (
        question.namespace in ("", pod.namespace) and selected(item, "", question.label_selector)
        for question in questions(Policy("p", "g", tuple(listed)), NAMESPACES)
    )
    assert any(answers) == any(each.selects(pod, NAMESPACES[pod.namespace]) for each in listed)


def policy(name: str, generation: int = 1) -> Any:
    return {"kind": "EgressGatewayPolicy", "metadata": {"name": name, "uid": "u", "generation": generation}}


def test_each_state_is_asked_for_once_when_its_pods_have_had_time() -> None:
    inquiry = EmptyPolicyChecker()
    objects = [policy("a"), policy("b"), {"kind": "EgressGateway", "metadata": {"name": "g"}}]
    assert inquiry.due(objects, 0) is None
    for name in ("a", "b"):
        state = inquiry.due(objects, SETTLE_S)
        assert state == (name, "u", 1)
        inquiry.answered(state)
    assert inquiry.due(objects, 10 * SETTLE_S) is None
    late = EmptyPolicyChecker()
    late.due(objects, 0)
    late.postpone(("a", "u", 1), SETTLE_S)
    assert late.due(objects, SETTLE_S) == ("b", "u", 1)
    edited = [policy("a", 2), policy("b")]
    assert inquiry.due(edited, 10 * SETTLE_S) is None
    assert inquiry.due(edited, 11 * SETTLE_S) == ("a", "u", 2)
