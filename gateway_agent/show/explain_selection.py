"""Explain which policies select a pod, and which requirements of the others the pod does not meet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cni.plan import NAMESPACE_LABEL, PlanPolicy, PodIdentity, Requirement, Selector

from .snapshot import NodeSnapshot

Step = dict[str, str]


def step(name: str, result: str, reason: str = "") -> Step:
    """Return one step of an explanation in the form of ``egressctl explain -o json``."""
    return {"step": name, "result": result, "reason": reason}


def policy_steps(view: NodeSnapshot, pod: PodIdentity) -> Iterator[Step]:
    """Yield a step for each policy: it selects the pod, or the requirements that fail."""
    if not view.plan.policies:
        yield step("policies", "there are none")
    for found in view.plan.policies:
        labels = view.plan.namespaces.get(pod.namespace)
        selects = found.selects(pod, labels)
        if selects is None:
            yield step(f"policy {found.name}", "may select it", "its labels are not known")
            continue
        reason = f"gateway {found.gateway}" if selects else _why_not(found, pod, labels)
        yield step(f"policy {found.name}", "selects it" if selects else "does not select it", reason)


def _why_not(found: PlanPolicy, pod: PodIdentity, namespace_labels: Mapping[str, str] | None) -> str:
    """Return the first failing requirement of each selector."""
    return "; ".join(dict.fromkeys(_failing(selector, pod, namespace_labels) for selector in found.selectors))


def _failing(selector: Selector, pod: PodIdentity, namespace_labels: Mapping[str, str] | None) -> str:
    around = {"kubernetes.io/metadata.name": pod.namespace, **(namespace_labels or {})}
    for term in selector.namespaces or ():
        if not term.holds(around):
            return f"namespace {pod.namespace}: {_unmet(term, around)}"
    labels = {**(pod.labels or {}), NAMESPACE_LABEL: pod.namespace}
    return next((_unmet(term, labels) for term in selector.pods if not term.holds(labels)), "")


def _unmet(term: Requirement, labels: Mapping[str, str]) -> str:
    value = labels.get(term.key)
    asked = f"{term.key} {term.operator}" + (f" ({', '.join(term.values)})" if term.values else "")
    return f"{asked} fails: " + ("there is no such label" if value is None else f"it is {value!r}")
