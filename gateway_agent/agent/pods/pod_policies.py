"""Find the policies of one pod in an inventory, and the pod's group from one plan to the next. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from cni.calls.attachments import Attachment
from cni.kernel import ids
from cni.plan import Plan, PlanPolicy, PodIdentity

from ...manifests.model import Inventory, Problem
from ...policy import planner


def selecting(policies: Iterable[PlanPolicy], inventory: Inventory, pod: PodIdentity) -> tuple[str, ...]:
    """Return the names of the policies that select the pod, or may select it if its labels are unknown."""
    labels = inventory.namespaces.get(pod.namespace)
    return tuple(policy.name for policy in policies if policy.selects(pod, labels) is not False)


def uncertain(policies: Iterable[PlanPolicy], inventory: Inventory, pod: PodIdentity) -> tuple[str, ...]:
    """Return the names of the policies for which unknown labels decide if they select the pod."""
    labels = inventory.namespaces.get(pod.namespace)
    return tuple(policy.name for policy in policies if policy.selects(pod, labels) is None)


def kept_group(group: int, before: Plan | None, plan: Plan) -> int:
    """Return the group of a pod's policy set in another plan; blocked if that plan lacks the set.

    For a pod with unknown labels, which must not lose its gateway because a policy was added or changed.
    """
    if not group:
        return 0
    key = next((s.key for s in (before.policy_sets if before else ()) if s.group == group), None)
    return next((s.group for s in plan.policy_sets if s.key == key), ids.GROUP_BLOCKED)


def same_for(pod: PodIdentity, one: Inventory, other: Inventory) -> bool:
    """Return True if two inventories are equivalent for this pod."""
    if one.same_but_for_pods(other):
        return True
    if (one.gateways, one.nodes, one.service_cidrs) != (other.gateways, other.nodes, other.service_cidrs):
        return False
    mine, theirs = (
        [inventory.policies_by_name[name] for name in selecting(planner.policies(inventory), inventory, pod)]
        for inventory in (one, other)
    )
    return mine == theirs


def identity(record: Attachment, inventory: Inventory) -> PodIdentity:
    """Return the pod's identity by the store, else by its CNI call."""
    return planner.identify(inventory, record.namespace, record.name, record.labels, record.uid)


def without_interface(record: Attachment) -> Problem:
    """Return the problem of a pod that started when no policy selected it; else its ADD would have been refused."""
    message = "a policy selects it now, but it has no host-side veth: its packets use no gateway"
    return Problem(record.subject, "", message, "let no policy select it, or remove it")
