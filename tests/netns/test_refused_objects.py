"""A part of one gateway that the kernel refuses: that gateway's packets are dropped, and the others have theirs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from cni.datapath import reconcile
from cni.kernel import ids
from cni.kernel.errors import KernelError, Outcome
from cni.plan import Plan, PlanEgressIP
from gateway_agent.gateway_rules.snat import gateway_nft

from .datapath_lab import FIRST, OTHER_SERVICE, OTHER_TAG, SECOND, SERVICE, SOURCES, TAG, Lab, Pod, plan

G1, G2 = SOURCES["g1"], SOURCES["g2"]


def with_first(node: str, change: Callable[[PlanEgressIP], PlanEgressIP], **masters: str) -> Plan:
    """Return the plan of a node with another first gateway."""
    wanted = plan(node, **masters)
    return replace(wanted, egress_ips=(change(wanted.egress_ips[0]), *wanted.egress_ips[1:]))


def ensure(lab: Lab, node: str, wanted: Plan) -> Outcome:
    """Bring a node to a plan, its gateway's rules first."""
    lab.nodes[node].nft(gateway_nft(wanted))
    return lab.nodes[node].machine.inside(lambda: reconcile.ensure(wanted))


def own_address_as_router(egress: PlanEgressIP) -> PlanEgressIP:
    """Return a gateway with a next hop that this kernel has itself: it refuses the route."""
    return replace(egress, routed=True, next_hop=egress.source, on_link="172.16.0.0/24")


def seen_as(pod: Pod, service: str) -> str:
    """Return the address that the service sees; empty if nothing arrives."""
    with contextlib.suppress(OSError), pod.connect(service, seconds=0.5) as conversation:
        return conversation.seen_as
    return ""


@pytest.mark.parametrize("pod", ["bridged", "routed", "onmaster"])
def test_a_refused_route_cuts_off_its_own_gateway_and_no_other(lab: Lab, pod: str) -> None:
    """The gateway that comes first is refused, so everything of the other one comes behind the refusal."""
    wanted = with_first("g1", own_address_as_router, second="g1")
    lab.masters(second="g1")
    for name in ("g1", "w1"):
        lab.nodes[name].machine.run("ip", "route", "flush", "table", str(ids.TABLE_BASE + 2))
    lab.nodes["g1"].machine.ip("rule del priority 902")
    outcome = ensure(lab, "g1", wanted)
    lab.nodes["w1"].ensure(plan("w1", second="g1"))
    assert [refusal.egress_id for refusal in outcome.refused] == [FIRST]
    assert G1 in str(outcome.refused[0].error)
    assert any(f"table {ids.TABLE_BASE + 2}" in message for message in outcome.done)
    client = lab.pods[pod]
    with lab.witness() as witness:
        assert seen_as(client, SERVICE) == ""
        assert witness.sources() == set()
    assert seen_as(client, OTHER_SERVICE) == G1
    # The owner mends the object.
    healed = ensure(lab, "g1", plan("g1", second="g1"))
    assert healed.done and not healed.refused
    assert seen_as(client, SERVICE) == G1


def test_a_refusal_is_repeated_until_it_is_mended_and_makes_no_other_change(lab: Lab) -> None:
    wanted = with_first("g1", own_address_as_router)
    assert ensure(lab, "g1", wanted).refused
    again = ensure(lab, "g1", wanted)
    assert (again.done, [each.egress_id for each in again.refused]) == ((), [FIRST])


def test_a_refused_device_cuts_off_its_own_gateway_and_no_other(lab: Lab) -> None:
    """Another program has a VXLAN device with the number of the first gateway's tunnel, at the same port."""
    machine, wanted = lab.nodes["w1"].machine, plan("w1")
    vni = wanted.egress_ips[0].vni
    machine.ip(
        f"link del {ids.device(vni)}",
        f"link add theirs type vxlan id {vni} dstport {wanted.port} local 10.0.0.11 nolearning",
    )
    try:
        outcome = ensure(lab, "w1", wanted)
        assert [refusal.egress_id for refusal in outcome.refused] == [FIRST]
        client = lab.pods["bridged"]
        with lab.witness() as witness:
            assert seen_as(client, SERVICE) == ""
            assert witness.sources() == set()
        assert seen_as(client, OTHER_SERVICE) == G2
    finally:
        machine.ip("link del theirs")
    assert not ensure(lab, "w1", wanted).refused
    assert seen_as(client, SERVICE) == G1


def test_a_refusal_that_concerns_all_gateways_ends_the_round(lab: Lab) -> None:
    """Without the device for answers no gateway works, so there is no gateway to name."""
    machine, wanted = lab.nodes["w1"].machine, plan("w1")
    machine.ip(
        f"link del {ids.RETURN_DEVICE}",
        f"link add theirs type vxlan id {ids.RETURN_VNI} dstport {wanted.port} local 10.0.0.11 nolearning",
    )
    try:
        with pytest.raises(KernelError, match=ids.RETURN_DEVICE):
            ensure(lab, "w1", wanted)
    finally:
        machine.ip("link del theirs")
    assert not ensure(lab, "w1", wanted).refused


def test_the_tags_of_the_lab_lead_to_both_gateways(lab: Lab) -> None:
    """The tests above would prove nothing with a pod that uses one gateway only."""
    sets = {each.number: set(each.egress_ids) for each in plan("w1").policy_sets}
    assert (sets[TAG], sets[OTHER_TAG]) == ({FIRST, SECOND}, {SECOND})
