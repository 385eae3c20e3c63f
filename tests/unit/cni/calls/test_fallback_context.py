"""The tag that a pod gets by the plan alone, and plans that do not say enough."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cni import contract, plan
from cni.calls import fallback_context
from cni.calls.cni_request import CallError
from cni.plan import PlanEgressIP, PlanPolicy, PodIdentity, PolicySet, Requirement, Selector

from .test_fallback import EMPTY, leave_plan, path

__all__ = ["path"]


@pytest.mark.parametrize(("app", "starts"), [("backend", False), ("other", True)])
def test_an_older_agents_plan_starts_no_selected_pod(app: str, starts: bool, path: Path) -> None:
    """The plugin is newer than the plan: rules made from it would lack what it does not say."""
    egress = PlanEgressIP("1", "partner", "", 1, 7, ("w1",))
    selector = Selector((Requirement("app", "In", ("backend",)),))
    sets = (PolicySet(1, ("a",), ("1",), ()),)
    policies = (PlanPolicy("a", "partner", (selector,)),)
    planned = replace(EMPTY, egress_ips=(egress,), policies=policies, policy_sets=sets)
    for version in (2, 3, plan.VERSION):
        leave_plan(path, plan.dumps(replace(planned, version=version)))
        place = fallback_context.FallbackContext(
            path.parent, plan.loads(path.with_name("plan.json").read_text()), "no agent"
        )
        pod = PodIdentity("prod", "pod", {"app": app})
        if version in plan.COMPLETE or starts:
            assert fallback_context.group_of(pod, "pod a/b", place) == (0 if starts else sets[0].group)
        else:
            with pytest.raises(CallError, match="older agent"):
                fallback_context.group_of(pod, "pod a/b", place)


TEAM = Selector((Requirement("app", "In", ("backend",)),), (Requirement("team", "In", ("x",)),))


@pytest.mark.parametrize(
    ("known", "namespaces", "app", "starts"),
    [
        (True, {}, "backend", False),
        (True, {}, "other", True),
        (True, {"prod": {"team": "y"}}, "backend", True),
        (False, {}, "backend", True),
    ],
    ids=["new namespace", "other labels of the pod", "known namespace", "files: no document, no labels"],
)
def test_a_pod_of_a_namespace_that_the_plan_does_not_know_does_not_start_if_its_labels_decide(
    known: bool, namespaces: dict[str, dict[str, str]], app: str, starts: bool, path: Path
) -> None:
    policy = PlanPolicy("team-x", "partner", (TEAM,))
    made = replace(EMPTY, policies=(policy,), namespaces=namespaces, knows_namespaces=known)
    context = fallback_context.FallbackContext(path.parent, plan.loads(plan.dumps(made)), "")
    pod = PodIdentity("prod", "web-0", {"app": app})
    if starts:
        assert fallback_context.group_of(pod, "pod a/b", context) == 0
        return
    with pytest.raises(CallError, match="namespace prod") as refused:
        fallback_context.group_of(pod, "pod a/b", context)
    assert refused.value.code == contract.TRY_AGAIN_LATER


def test_a_plan_that_is_replaced_during_a_call_is_no_longer_the_newest(path: Path) -> None:
    """An agent that was only slow has learned of an edit, written its plan, and taken the mark away again."""
    leave_plan(path)
    plan_file = path.with_name(contract.PLAN)
    place = fallback_context.FallbackContext(path.parent, EMPTY, "", fallback_context.stamp_of(plan_file))
    assert not place.outdated()
    new = path.with_name("new")
    new.write_text(plan.dumps(EMPTY))
    new.rename(plan_file)
    assert place.outdated()


def test_a_pod_of_policies_without_a_tag_yet_waits_for_the_agent(path: Path) -> None:
    selector = Selector((Requirement("app", "In", ("backend",)),))
    planned = replace(EMPTY, policies=(PlanPolicy("a", "partner", (selector,)),))
    context = fallback_context.FallbackContext(path.parent, planned, "the agent is away")
    with pytest.raises(CallError, match="no tag yet for pods of a") as refused:
        fallback_context.group_of(PodIdentity("prod", "pod", {"app": "backend"}), "pod a/b", context)
    assert "the agent is away" in refused.value.details
