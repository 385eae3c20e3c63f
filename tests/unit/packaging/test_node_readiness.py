"""Rights and admission rules under packaging/kubernetes/node-readiness, and what an agent writes."""

from __future__ import annotations

import copy
from typing import Any

import celpy
import kubernetes_validate
import pytest
from celpy.adapter import json_to_cel

from gateway_agent.kubernetes.node_marks import condition_patch, taint_patch
from tests.lab.apiserver.objects import LISTS, merge_patch

from .test_kubernetes import Document, only, rendered

DIRECTORY = "node-readiness"
AGENT = "system:serviceaccount:egress-gateway:agent"
NODE: Document = {
    "metadata": {"name": "w1", "resourceVersion": "7", "labels": {"zone": "a"}},
    "spec": {"taints": [{"key": "dedicated", "effect": "NoSchedule"}]},
    "status": {
        "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}


def test_the_api_would_take_them() -> None:
    for document in rendered(DIRECTORY):
        kubernetes_validate.validate(document, "1.32", strict=True)


def holds(expression: str, **names: Any) -> bool:
    environment = celpy.Environment()
    values = {name: json_to_cel(value) for name, value in names.items()}
    return bool(environment.program(environment.compile(expression)).evaluate(values))


def refused(after: Document, node: str = "w1", user: str = AGENT) -> list[str]:
    """Return why the policy refuses the change of :data:`NODE`; the token is of an agent on ``node``."""
    spec = only("ValidatingAdmissionPolicy", DIRECTORY)["spec"]
    extra = {"authentication.kubernetes.io/node-name": [node]} if node else {}
    request = {"name": "w1", "userInfo": {"username": user, "extra": extra}}
    if not all(holds(one["expression"], request=request) for one in spec["matchConditions"]):
        return []
    given = {"request": request, "object": after, "oldObject": NODE}
    return [one["message"] for one in spec["validations"] if not holds(one["expression"], **given)]


def changed(patch: Any, lists: dict[str, str] | None = None) -> Document:
    return dict(merge_patch(copy.deepcopy(NODE), patch, lists))


def test_what_an_agent_writes_passes() -> None:
    tainted = changed(taint_patch(NODE, "why"))
    assert tainted != NODE
    assert refused(tainted) == []
    marked = changed(condition_patch(NODE, "why", 1000.0), LISTS)
    assert len(marked["status"]["conditions"]) == 2
    assert refused(marked) == []


@pytest.mark.parametrize("node", ["w2", ""])
def test_another_node_is_refused(node: str) -> None:
    assert refused(changed(taint_patch(NODE, "why")), node) == ["an agent changes its own node only"]


@pytest.mark.parametrize(
    "patch",
    [
        {"spec": {"taints": None}},
        {"spec": {"taints": [*NODE["spec"]["taints"], {"key": "egress-gateway.io/not-ready", "effect": "NoExecute"}]}},
        {"spec": {"unschedulable": True}},
        {"metadata": {"labels": {"zone": "b"}}},
        {"metadata": {"labels": {"node-role/egress": ""}}},
        {"metadata": {"annotations": {"a": "b"}}},
        {"metadata": {"finalizers": ["a/b"]}},
        {"status": {"conditions": [{"type": "Ready", "status": "False"}]}},
        {"status": {"addresses": []}},
        {"status": {"capacity": {"pods": "1"}}},
    ],
)  # fmt: skip
def test_any_other_change_is_refused(patch: Document) -> None:
    assert len(refused(changed(patch))) == 1
    assert refused(changed(patch), user="system:node:w1") == []
