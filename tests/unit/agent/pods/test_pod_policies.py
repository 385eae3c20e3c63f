"""What policies ask for one pod, of an inventory and from one plan to the next."""

from __future__ import annotations

from dataclasses import replace

from cni.kernel import ids
from cni.plan import PlanPolicy, PodIdentity, Requirement, Selector
from gateway_agent.agent.pods.pod_policies import kept_group, same_for, selecting, uncertain

from ...policy.small_inventory import build, inventory, policy, sets

LABELLED = PlanPolicy("labelled", "partner", (Selector((Requirement("a", "Exists"),)),))
ALL = PlanPolicy("all", "partner", (Selector(()),))
WEB = PodIdentity("prod", "web", {"a": ""})
OTHER = PodIdentity("prod", "other", {})
UNKNOWN = PodIdentity("prod", "unknown", None)


def test_a_pod_with_unknown_labels_may_be_selected() -> None:
    seen = inventory()
    assert selecting([LABELLED, ALL], seen, WEB) == ("labelled", "all")
    assert selecting([LABELLED, ALL], seen, OTHER) == ("all",)
    assert selecting([LABELLED, ALL], seen, UNKNOWN) == ("labelled", "all")
    assert uncertain([LABELLED, ALL], seen, UNKNOWN) == ("labelled",)
    assert uncertain([LABELLED, ALL], seen, WEB) == ()


def test_a_tag_is_kept_by_its_policy_set() -> None:
    before = build(inventory(policy("a"), policy("b"))).plan
    after = build(inventory(policy("b"), policy("c")), previous=before).plan
    of_a, of_b = (ids.GROUP_BASE + sets(before)[(name,)] for name in "ab")
    assert kept_group(of_b, before, after) == ids.GROUP_BASE + sets(after)[("b",)]
    assert kept_group(of_a, before, after) == ids.GROUP_BLOCKED
    assert kept_group(of_a, None, after) == ids.GROUP_BLOCKED
    assert kept_group(0, before, after) == 0


def test_only_the_policies_that_select_a_pod_count_for_it() -> None:
    mine = replace(policy("a"), selectors=LABELLED.selectors)
    other = replace(policy("b"), selectors=(Selector((Requirement("b", "Exists"),)),))
    one = inventory(mine, other)
    edited = inventory(mine, replace(other, destinations=("198.51.100.0/24",)))
    assert same_for(WEB, one, edited)
    assert not same_for(UNKNOWN, one, edited), "b may select it"
    assert not same_for(WEB, one, inventory(replace(mine, destinations=("198.51.100.0/24",)), other))
    assert not same_for(WEB, one, replace(one, nodes=one.nodes[1:]))
