"""Why a policy selects a pod, or which of its requirements the pod does not meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from cni.plan import PlanPolicy, PodIdentity, Requirement, Selector
from gateway_agent.show.explain_selection import policy_steps
from gateway_agent.show.snapshot import NodeSnapshot

from .metrics.test_families import view

WEB = Requirement("app", "In", ("web", "api"))
PROD = Requirement("kubernetes.io/metadata.name", "In", ("prod",))


def steps(
    pod: PodIdentity, *selectors: Selector, namespaces: Mapping[str, Mapping[str, str]] | None = None
) -> list[tuple[str, str]]:
    """Return result and reason of each step for one policy with these selectors."""
    policies = (PlanPolicy("web", "partner", selectors),) if selectors else ()
    seen: NodeSnapshot = view()
    plan = replace(seen.plan, policies=policies, namespaces=namespaces or {})
    return [(step["result"], step["reason"]) for step in policy_steps(replace(seen, plan=plan), pod)]


def pod(labels: Mapping[str, str] | None) -> PodIdentity:
    return PodIdentity("prod", "web-0", labels)


def test_without_policies_there_is_one_step() -> None:
    assert steps(pod({})) == [("there are none", "")]


@pytest.mark.parametrize(
    ("labels", "result", "reason"),
    [
        ({"app": "web"}, "selects it", "gateway partner"),
        (None, "may select it", "its labels are not known"),
        ({}, "does not select it", "app In (web, api) fails: there is no such label"),
        ({"app": "db"}, "does not select it", "app In (web, api) fails: it is 'db'"),
    ],
)
def test_a_policy_by_labels(labels: Mapping[str, str] | None, result: str, reason: str) -> None:
    assert steps(pod(labels), Selector((WEB,))) == [(result, reason)]


def test_each_selector_gives_its_first_reason_once() -> None:
    selectors = (
        Selector((WEB,)),
        Selector((WEB, Requirement("tier", "Exists"))),
        Selector((Requirement("x", "Exists"),)),
    )
    [(_, reason)] = steps(pod({}), *selectors)
    assert reason == (
        "app In (web, api) fails: there is no such label; x Exists fails: there is no such label"
    )


def test_a_namespace_that_is_not_selected_is_named() -> None:
    selector = Selector((WEB,), namespaces=(PROD,))
    elsewhere = PodIdentity("test", "web-0", {"app": "web"})
    [(result, reason)] = steps(elsewhere, selector, namespaces={"test": {}})
    assert result == "does not select it"
    assert reason.startswith("namespace test: kubernetes.io/metadata.name In (prod) fails: it is 'test'")
