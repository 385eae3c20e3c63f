"""Numbers of egress IPs: what the pods of a node use, and what the node can serve."""

from __future__ import annotations

import dataclasses

from cni.datapath.objects import node_nft, node_state
from gateway_agent.policy import numbers, planner

from .small_inventory import PARTNER, SMALL_MASK, build, inventory, pod, policy


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
    assert rules.count("203.0.113.0/24 : goto no_gateway") == 1, "one map for both"


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
    sets = [worker.plan.set_for(one, worker.plan.policies_for(one) or ()) for one in pods]
    used = {each for found in sets if found for each in found.egress_ids}
    assert None not in sets
    assert used <= {egress.id for egress in worker.plan.outgoing}
    assert len(worker.plan.outgoing) <= 40 + numbers.PREPARED_EGRESS_IPS
    assert not worker.plan.incoming
    state = node_state(worker.plan)
    assert len(state.vxlans) == len(worker.plan.outgoing) + 1
    served = build(inventory(*policies, gateways=gateways), node="g1").plan
    able = [egress for egress in served.egress_ips if egress.eligible]
    assert len({egress.inlet for egress in able} - {0}) == len(able) > 4000


def test_a_set_in_use_leads_where_it_led_though_its_gateway_is_used_no_more() -> None:
    others = [f"other-{number}" for number in range(numbers.MIN_SLOTS)]
    gateways = tuple(dataclasses.replace(PARTNER, name=name) for name in (*others, "p", "q"))
    before = build(inventory(policy("a", "p"), gateways=gateways)).plan
    after = build(inventory(policy("a", "q"), gateways=gateways), previous=before).plan
    [a] = before.policy_sets
    slots = {egress.gateway: egress.slot for egress in after.outgoing}
    assert "p" not in slots
    between = planner.with_sets_in_use(after, before, {a.group})
    [old] = (egress.slot for egress in before.outgoing if egress.gateway == "p")
    assert {egress.gateway: egress.slot for egress in between.outgoing} == {**slots, "p": old}
