"""Policy sets of a plan: their numbers, and which of them there is room for."""

from __future__ import annotations

import dataclasses

from cni.datapath.objects import node_nft, node_state
from gateway_agent.policy import numbers, planner, policy_sets

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


def test_packets_of_pods_to_gateways_beyond_the_numbers_are_dropped() -> None:
    gateways = tuple(dataclasses.replace(PARTNER, name=f"g{index}") for index in range(8))
    policies = tuple(policy(f"p{index}", f"g{index}") for index in range(8))
    pods = tuple(pod(f"p{index}", name=f"web-{index}") for index in range(8))
    planned = build(inventory(*policies, gateways=gateways), mask=SMALL_MASK, pods=pods)
    assert [(p.source, p.path, p.message.partition(":")[0]) for p in planned.problems] == [
        ("gateways.yaml", "metadata.name", "gateway g6"),
        ("gateways.yaml", "metadata.name", "gateway g7"),
    ]
    assert len(planned.plan.policy_sets) >= 8, "each pod has its tag"
    rules = node_nft(planned.plan)
    assert rules.count("203.0.113.0/24 : goto steer_") == 6
    assert rules.count("203.0.113.0/24 : drop") == 1, "one map for both"


def test_each_of_250_pods_has_its_own_set_with_the_default_mask() -> None:
    names = [f"p{index}" for index in range(250)]
    pods = tuple(pod(name, name=name) for name in names)
    planned = build(inventory(*map(policy, names)), pods=pods)
    assert not planned.problems
    assert len({planned.plan.set_for(each, (each.name,)) for each in pods}) == 250
    assert len({s.group for s in planned.plan.policy_sets}) == len(planned.plan.policy_sets) <= 255


def test_a_worker_has_numbers_for_what_its_pods_use_and_an_egress_node_for_what_it_serves() -> None:
    """A cluster of 4,096 egress IPs with a policy for each."""
    of = [f"172.{16 + index // 250}.{index % 250}" for index in range(64)]
    gateways = tuple(
        dataclasses.replace(
            PARTNER, name=f"g{index}", mode="VirtualIPAddress", interface="",
            addresses=tuple(f"{net}.{host}" for host in range(1, 65)),
        )
        for index, net in enumerate(of)
    )  # fmt: skip
    policies = tuple(policy(f"p{index}", f"g{index}") for index in range(64))
    pods = tuple(pod(f"p{index}", name=f"web-{index}") for index in range(40))
    worker = build(inventory(*policies, gateways=gateways), pods=pods)
    assert len(worker.plan.egress_ips) == 4096
    assert not [each for each in worker.problems if "number" in each.message and "tunnel" not in each.message]
    used = {
        each
        for one in pods
        for each in worker.plan.set_for(one, worker.plan.policies_for(one) or ()).egress_ids
    }  # type: ignore[union-attr]
    assert used <= {egress.id for egress in worker.plan.outgoing}
    assert len(worker.plan.outgoing) <= 40 + numbers.PREPARED_EGRESS_IPS
    assert not worker.plan.incoming
    state = node_state(worker.plan)
    assert len(state.vxlans) == len(worker.plan.outgoing) + 1
    served = build(inventory(*policies, gateways=gateways), node="g1").plan
    able = [egress for egress in served.egress_ips if egress.eligible]
    assert len({egress.inlet for egress in able} - {0}) == len(able) > 4000


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


def test_sets_in_use_stay_until_no_tag_stands_for_them() -> None:
    before = build(inventory(policy("a"), policy("b"))).plan
    after = build(inventory(policy("b")), previous=before).plan
    a = next(s for s in before.policy_sets if s.policies == ("a",))
    between = planner.with_sets_in_use(after, before, {a.group})
    assert set(between.policy_sets) == {*after.policy_sets, a}
    assert planner.with_sets_in_use(after, before, ()) == after
    assert planner.with_sets_in_use(after, None, {a.group}) == after


def test_a_set_in_use_leads_where_it_led_though_its_gateway_is_used_no_more() -> None:
    others = [f"other-{number}" for number in range(numbers.FEW_EGRESS_IPS)]
    gateways = tuple(dataclasses.replace(PARTNER, name=name) for name in (*others, "p", "q"))
    before = build(inventory(policy("a", "p"), gateways=gateways)).plan
    after = build(inventory(policy("a", "q"), gateways=gateways), previous=before).plan
    [a] = before.policy_sets
    slots = {egress.gateway: egress.slot for egress in after.outgoing}
    assert "p" not in slots
    between = planner.with_sets_in_use(after, before, {a.group})
    [old] = (egress.slot for egress in before.outgoing if egress.gateway == "p")
    assert {egress.gateway: egress.slot for egress in between.outgoing} == {**slots, "p": old}


def test_a_set_in_use_gives_way_where_its_number_is_needed() -> None:
    before = build(inventory(policy("a")), mask=SMALL_MASK).plan
    names = "bcdefghijklmnopq"
    after = build(inventory(*(policy(name) for name in names)), mask=SMALL_MASK, previous=before).plan
    taken = {s.number for s in after.policy_sets}
    [a] = before.policy_sets
    assert a.number in taken
    assert planner.with_sets_in_use(after, before, {a.group}) == after
