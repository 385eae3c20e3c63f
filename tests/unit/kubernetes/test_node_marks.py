"""The taint and the condition of a node, as patches."""

from __future__ import annotations

from typing import Any

import pytest

from gateway_agent.kubernetes.node_marks import CONDITION, TAINT, condition_patch, taint_patch

OURS = {"key": TAINT, "effect": "NoSchedule"}
OTHERS = [
    {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
    # An administrator's: not the one that we keep.
    {"key": TAINT, "effect": "NoExecute"},
]
WELL = ""


def node(*taints: dict[str, str], conditions: list[dict[str, str]] | None = None) -> dict[str, Any]:
    metadata = {"name": "w1", "resourceVersion": "7"}
    return {"metadata": metadata, "spec": {"taints": [*taints]}, "status": {"conditions": conditions or []}}


@pytest.mark.parametrize(
    ("before", "unready", "after"),
    [
        ([], "why", [OURS]),
        (OTHERS, "why", [*OTHERS, OURS]),
        ([OURS, *OTHERS], WELL, OTHERS),
        # As kubelet --register-with-taints makes it with a value.
        ([{**OURS, "value": "true"}], WELL, []),
        ([OURS], "why", None),
        (OTHERS, WELL, None),
        ([], WELL, None),
    ],
)
def test_taint(before: list[dict[str, str]], unready: str, after: list[dict[str, str]] | None) -> None:
    patch = taint_patch(node(*before), unready)
    expected = {"metadata": {"resourceVersion": "7"}, "spec": {"taints": after}}
    assert patch == (None if after is None else expected)


def test_a_node_of_any_shape_gets_a_taint() -> None:
    for odd in ({}, {"spec": None}, {"spec": {"taints": "x"}}, {"spec": {"taints": [1]}}):
        patch = taint_patch({"metadata": {"name": "w1"}, **odd}, "why")
        assert patch is not None
        assert OURS in patch["spec"]["taints"]


def test_condition() -> None:
    def of(patch: Any) -> dict[str, str]:
        [condition] = patch["status"]["conditions"]
        return dict(condition)

    first = of(condition_patch(node(), "why", 1000.0))
    assert (first["type"], first["status"], first["message"]) == (CONDITION, "False", "why")
    stored = node(conditions=[{"type": "Ready", "status": "True"}, first])
    assert condition_patch(stored, "why", 2000.0) is None
    other_reason = of(condition_patch(stored, "why now", 2000.0))
    assert other_reason["lastTransitionTime"] == first["lastTransitionTime"]
    ready = of(condition_patch(stored, WELL, 2000.0))
    assert (ready["status"], ready["lastTransitionTime"] > first["lastTransitionTime"]) == ("True", True)
    assert condition_patch(node(conditions=[ready]), WELL, 3000.0) is None
