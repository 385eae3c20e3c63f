"""Policy sets of a plan: their numbers, and which of them there is room for."""

from __future__ import annotations

import dataclasses

from gateway_agent.policy import planner, policy_sets

from .small_inventory import PARTNER, SMALL_MASK, build, inventory, pod, policy, sets


def test_a_set_whose_policy_moves_to_another_gateway_is_another_set() -> None:
    gateways = (PARTNER, dataclasses.replace(PARTNER, name="second"))
    first = build(inventory(policy("a"), gateways=gateways)).plan
    second = build(inventory(policy("a", "second"), gateways=gateways), previous=first).plan
    assert sets(first)["a",] != sets(second)["a",]


def test_another_mask_numbers_anew() -> None:
    first = build(inventory(*(policy(name) for name in "abcdefg"))).plan
    second = build(inventory(policy("g")), previous=first, mask=SMALL_MASK).plan
    assert sets(second) == {("g",): 1}


def test_sets_are_prepared_by_growing_size_up_to_the_bound() -> None:
    names = [f"p{index:02}" for index in range(12)]
    pods = (pod("p03", "p02", "p01"), pod("p00", "gone"), pod())
    plan = build(inventory(*map(policy, names)), pods=pods).plan
    found = list(sets(plan))
    assert len(found) == policy_sets.PREPARED_SETS
    assert {(name,) for name in names} <= set(found)
    assert ("p01", "p02", "p03") in found
    assert {len(policies) for policies in found} == {1, 2, 3}
    assert len([policies for policies in found if len(policies) == 3]) == 1


def test_wanted_sets_come_first_where_numbers_are_few() -> None:
    many = inventory(*map(policy, "abcdefghijklmnop"))
    planned = build(many, mask=SMALL_MASK, pods=(pod("g", "h"), pod("h")))
    assert len(planned.plan.policy_sets) == 15
    assert {("g", "h"), ("h",)} <= set(sets(planned.plan))
    assert not planned.problems, "what is only prepared is nothing that a pod lacks"
    # What the pods here want gets a number from what was only prepared.
    before = build(many, mask=SMALL_MASK).plan
    assert ("g", "h") in sets(build(many, mask=SMALL_MASK, previous=before, pods=(pod("g", "h"),)).plan)


def test_gateways_beyond_the_numbers_have_no_policy_set_in_advance() -> None:
    gateways = tuple(dataclasses.replace(PARTNER, name=f"g{index}") for index in range(8))
    policies = tuple(policy(f"p{index}", f"g{index}") for index in range(8))
    planned = build(inventory(*policies, gateways=gateways), mask=SMALL_MASK)
    assert {e.gateway for e in planned.plan.outgoing} == {f"g{index}" for index in range(6)}
    assert {name for s in planned.plan.policy_sets for name in s.policies} == {
        f"p{index}" for index in range(6)
    }
    assert not planned.problems, "no pod lacks one"
    assert planned.plan.set_for(pod("p7"), ("p7",)) is None


def test_each_of_250_pods_has_its_own_set_with_the_default_mask() -> None:
    names = [f"p{index}" for index in range(250)]
    pods = tuple(pod(name, name=name) for name in names)
    planned = build(inventory(*map(policy, names)), pods=pods)
    assert not planned.problems
    assert len({planned.plan.set_for(each, (each.name,)) for each in pods}) == 250
    assert len({s.group for s in planned.plan.policy_sets}) == len(planned.plan.policy_sets) <= 255


def test_thousand_prefixes_in_every_set() -> None:
    """Each policy set has all prefixes; a second plan takes the ways of the first."""
    prefixes = tuple(f"198.{index >> 8}.{index & 255}.0/25" for index in range(1000))
    of = inventory(*(dataclasses.replace(policy(name), destinations=prefixes) for name in "abcd"))
    plan = build(of).plan
    assert len(plan.policy_sets) == 15
    assert all(len(s.destinations) == 1000 for s in plan.policy_sets)
    again = build(of, previous=plan).plan
    assert all(
        a.destinations is b.destinations for a, b in zip(again.policy_sets, plan.policy_sets, strict=True)
    )


def test_sets_in_use_stay_until_no_tag_means_them() -> None:
    before = build(inventory(policy("a"), policy("b"))).plan
    after = build(inventory(policy("b")), previous=before).plan
    a = next(s for s in before.policy_sets if s.policies == ("a",))
    between = planner.with_sets_in_use(after, before, {a.group})
    assert set(between.policy_sets) == {*after.policy_sets, a}
    assert planner.with_sets_in_use(after, before, ()) == after
    assert planner.with_sets_in_use(after, None, {a.group}) == after


def test_a_set_in_use_gives_way_where_its_number_is_needed() -> None:
    before = build(inventory(policy("a")), mask=SMALL_MASK).plan
    names = "bcdefghijklmnopq"
    after = build(inventory(*(policy(name) for name in names)), mask=SMALL_MASK, previous=before).plan
    taken = {s.number for s in after.policy_sets}
    [a] = before.policy_sets
    assert a.number in taken
    assert planner.with_sets_in_use(after, before, {a.group}) == after
