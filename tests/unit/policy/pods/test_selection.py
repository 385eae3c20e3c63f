"""For many pods it says what the plan says for each."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cni.kernel import ids
from cni.plan import (
    NAMESPACE_LABEL,
    Plan,
    PlanEgressIP,
    PlanPolicy,
    PodIdentity,
    PolicySet,
    Requirement,
    Selector,
)
from gateway_agent.policy.pods.selection import Selection

KEYS, VALUES, NAMESPACES = ("a", "b", NAMESPACE_LABEL), ("x", "y", "prod"), ("prod", "test")
OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")
terms = st.builds(
    Requirement,
    st.sampled_from(KEYS),
    st.sampled_from(OPERATORS),
    st.lists(st.sampled_from(VALUES)).map(tuple),
)
of_namespaces = st.builds(Requirement, st.just("team"), st.sampled_from(OPERATORS), st.just(("x",)))
selectors = st.builds(
    Selector,
    st.lists(terms, max_size=2).map(tuple),
    st.none() | st.lists(of_namespaces).map(tuple),
)
pods = st.builds(
    PodIdentity,
    st.sampled_from(NAMESPACES),
    st.sampled_from([f"pod-{number}" for number in range(6)]),
    st.none() | st.dictionaries(st.sampled_from(("a", "b", "c")), st.sampled_from(VALUES)),
)


def egress(gateway: str, number: int) -> PlanEgressIP:
    address = f"172.16.0.{number}" if number % 3 else f"fd00::{number}"
    return PlanEgressIP(ids.egress_id(gateway, address), gateway, address, number, 100 + number, ("g1",))


EGRESS_IPS = (egress("one", 1), *(egress("two", number) for number in range(2, 8)))


@given(
    st.lists(st.tuples(st.sampled_from(("one", "two", "none")), st.lists(selectors, max_size=3)), max_size=4),
    st.lists(pods, max_size=12),
)
def test_it_agrees_with_the_plan(made: list[tuple[str, list[Selector]]], asked: list[PodIdentity]) -> None:
    policies = tuple(PlanPolicy(f"p{n}", gateway, tuple(by)) for n, (gateway, by) in enumerate(made))
    plan = Plan("w1", 0x0FF00000, 4799, 1450, (), EGRESS_IPS, policies, namespaces={"prod": {"team": "x"}})
    keys = {plan.key_for(pod, plan.policies_for(pod) or ()) for pod in asked[::2]}
    numbered = enumerate(sorted(key for key in keys if key and key[0]), 1)
    plan = replace(plan, policy_sets=tuple(PolicySet(n, key[0], key[1], (), key[2]) for n, key in numbered))
    selection = Selection(plan)
    for pod in asked:
        wanted = plan.policies_for(pod)
        assert selection.policies_for(pod) == wanted
        assert selection.set_for(pod) == (plan.set_for(pod, wanted) if wanted else None)
        found = plan.set_for(pod, wanted) if wanted else None
        assert selection.group_for(pod) == (0 if not wanted else found.group if found else ids.GROUP_BLOCKED)
