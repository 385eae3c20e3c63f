"""Which packets ``egressctl test`` sends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cni.kernel import ids
from cni.plan import Destination, Plan, PlanEgressIP, PlanNode, PolicySet
from gateway_agent.policy.egress_node.pod_probes import (
    ALL_HOPS,
    HOPS_BEHIND_MASTER,
    HOPS_BEHIND_TUNNEL,
    HTTPS,
    PodProbe,
    probe,
)

FOUR = PlanEgressIP("a" * 16, "partner", "172.16.0.50", 1, 1, ("g1",), "g1")
SIX = PlanEgressIP("b" * 16, "partner", "fd00:172::50", 2, 2, ("g1",), "g1")
UNUSED = PlanEgressIP("c" * 16, "spare", "172.16.0.60", 3, 3, ("g1",), "g1")
DESTINATIONS = (
    Destination("198.51.100.0/24", FOUR.id),
    Destination("203.0.113.0/24", FOUR.id),
    Destination("2001:db9::/64", SIX.id),
)
PLAN = Plan(
    "w1",
    0x0FF00000,
    4799,
    1450,
    (PlanNode("w1", "10.0.0.21"), PlanNode("g1", "10.0.0.7")),
    (FOUR, SIX, UNUSED),
    (),
    (PolicySet(1, (), (), ()), PolicySet(2, ("p",), (FOUR.id,), DESTINATIONS, (SIX.id,))),
)
TAG = ids.GROUP_BASE + 2


def test_a_worker_sends_to_an_unused_address_as_far_as_the_next_hop() -> None:
    """203.0.113.1 stands for the default route, and is preferred to the first prefix."""
    assert probe(PLAN, FOUR, "", 0) == PodProbe(FOUR.id, TAG, "203.0.113.1", HTTPS, HOPS_BEHIND_TUNNEL)


def test_the_packet_of_the_masters_own_pod_is_routed_once_less() -> None:
    found = probe(replace(PLAN, node="g1"), FOUR, "", 0)
    assert found is not None
    assert found.hops == HOPS_BEHIND_MASTER


def test_the_first_host_of_a_prefix_serves_if_nobodys_address_is_not_led_there() -> None:
    assert probe(PLAN, SIX, "", 0) == PodProbe(SIX.id, TAG, "2001:db9::1", HTTPS, HOPS_BEHIND_TUNNEL)


def test_a_destination_that_was_asked_for_is_reached_the_whole_way() -> None:
    assert probe(PLAN, FOUR, "198.51.100.9", 80) == PodProbe(FOUR.id, TAG, "198.51.100.9", 80, ALL_HOPS)


@pytest.mark.parametrize(
    ("egress", "to"), [(UNUSED, ""), (FOUR, "192.0.2.1"), (FOUR, "2001:db9::1"), (SIX, "203.0.113.1")]
)
def test_nothing_is_sent_that_no_policy_sends(egress: PlanEgressIP, to: str) -> None:
    assert probe(PLAN, egress, to, 0) is None
