"""Find the policies and policy sets of many pods, with the results of :meth:`cni.plan.Plan.policies_for` for one.

A node may run hundreds of pods, a cluster may have hundreds of policies, and each round needs all combinations.
Policies use few label keys, so the result is cached by the values of these keys. Most policies require one value of a
label, so an index by (key, value) limits the policies that are compared with a pod.
"""

from __future__ import annotations

from itertools import chain

from cni.kernel import ids
from cni.plan import NAMESPACE_LABEL, Plan, PlanPolicy, PodIdentity, PolicySet, Selector, SetKey, choose

Policies = tuple[str, ...] | None
"""Names of policies, sorted; None if they depend on unknown labels."""


class Selection:
    """Index of the policies and policy sets of one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._asking: dict[tuple[str, str], list[PlanPolicy]] = {}
        """(label, value) → policies with a selector that requires this value."""
        self._others: list[PlanPolicy] = []
        for policy in plan.policies:
            for selector in policy.selectors:
                self._file(policy, selector)
        terms = (
            term.key for policy in plan.policies for selector in policy.selectors for term in selector.pods
        )
        self._looked_at = sorted(set(terms))
        self._policies: dict[tuple[str, tuple[str | None, ...] | None], Policies] = {}
        self._gateways = {policy.name: policy.gateway for policy in plan.policies}
        self._choices = {name: plan.ids_of(name) for name in set(self._gateways.values())}
        self._sets = {policy_set.key: policy_set for policy_set in plan.policy_sets}

    def policies_for(self, pod: PodIdentity) -> Policies:
        """Return the policies that select a pod, as :meth:`cni.plan.Plan.policies_for`."""
        seen = None if pod.labels is None else tuple(pod.labels.get(key) for key in self._looked_at)
        key = pod.namespace, seen
        if key not in self._policies:
            self._policies[key] = self._selecting(pod)
        return self._policies[key]

    def _selecting(self, pod: PodIdentity) -> Policies:
        if pod.labels is None:
            return self._plan.policies_for(pod)
        asked = (self._asking.get(label, ()) for label in pod.labels.items())
        namespace = self._plan.namespaces.get(pod.namespace)
        candidates = {policy.name: policy for policy in chain(self._others, *asked)}
        return tuple(sorted(name for name, policy in candidates.items() if policy.selects(pod, namespace)))

    def _file(self, policy: PlanPolicy, selector: Selector) -> None:
        """Index a selector by the values of its first ``In`` term.

        A term for the namespace's label does not qualify: it is not among a pod's own labels.
        """
        terms = (term for term in selector.pods if term.operator == "In" and term.key != NAMESPACE_LABEL)
        term = next(terms, None)
        if term is None:
            self._others.append(policy)
            return
        for value in term.values:
            self._asking.setdefault((term.key, value), []).append(policy)

    def key_for(self, pod: PodIdentity) -> SetKey | None:
        """Return the key of the pod's policy set; None if no policy selects the pod or a gateway has no egress IP."""
        policies = self.policies_for(pod)
        if not policies:
            return None
        found4, found6 = [], []
        for name in policies:
            ids4, ids6 = self._choices[self._gateways[name]]
            if not ids4:
                return None
            found4.append(choose(pod, ids4) if len(ids4) > 1 else ids4[0])
            found6.append(choose(pod, ids6) if len(ids6) > 1 else ids6[0])
        return policies, tuple(found4), tuple(found6)

    def set_for(self, pod: PodIdentity) -> PolicySet | None:
        """Return the pod's policy set; None if the pod needs none or the plan lacks it."""
        key = self.key_for(pod)
        return self._sets.get(key) if key is not None else None

    def group_for(self, pod: PodIdentity) -> int:
        """Return the interface group (the tag) of the pod's interface; 0 if no policy selects the pod.

        If the plan lacks the pod's policy set, return :data:`cni.kernel.ids.GROUP_BLOCKED`, whose packets are dropped.
        """
        if not self.policies_for(pod):
            return 0
        policy_set = self.set_for(pod)
        return policy_set.group if policy_set else ids.GROUP_BLOCKED
