"""Which policy set a pod uses, and the JSON form of a plan."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import plan as plans
from cni.kernel import ids
from cni.plan import Destination, Plan, PlanEgressIP, PlanNode, PlanPolicy, PodIdentity, PolicySet, choose

PODS = [PodIdentity("prod", f"web-{number}", {}) for number in range(1200)]
ONE, TWO, THREE = (ids.egress_id("partner", f"172.16.0.{host}") for host in (50, 78, 43))
SIX = ids.egress_id("partner", "2001:db8::50")
POLICIES = (PlanPolicy("a", "partner", ()), PlanPolicy("b", "bank", ()), PlanPolicy("c", "partner", ()))
BANK = ids.egress_id("bank", "")


def egress(gateway: str, address: str, slot: int) -> PlanEgressIP:
    identity = ids.egress_id(gateway, address)
    return PlanEgressIP(identity, gateway, address, slot, ids.vni(identity), ("g1",))


EGRESS_IPS = (
    egress("bank", "", 1), egress("partner", "172.16.0.50", 2), egress("partner", "2001:db8::50", 3),
    egress("partner", "172.16.0.78", 4),
)  # fmt: skip
PLAN = Plan("w1", 0xFF00000, 4799, 1450, (PlanNode("g1", "10.0.0.1"),), EGRESS_IPS, POLICIES)


def test_an_address_that_is_added_takes_its_share_and_moves_no_other_pod() -> None:
    before = {pod.name: choose(pod, [ONE, TWO]) for pod in PODS}
    after = {pod.name: choose(pod, [ONE, TWO, THREE]) for pod in PODS}
    moved = [name for name in before if before[name] != after[name]]
    assert {after[name] for name in moved} == {THREE}
    for share in Counter(after.values()).values():
        assert 330 < share < 470


@given(st.text(), st.text(), st.permutations([ONE, TWO, THREE, SIX]))
def test_the_choice_hangs_on_the_pod_alone(namespace: str, name: str, order: list[str]) -> None:
    labels = {"app": "web"}
    chosen = choose(PodIdentity(namespace, name), [ONE, TWO, THREE, SIX])
    assert choose(PodIdentity(namespace, name, labels), order) == chosen
    assert choose(PodIdentity(namespace, name), [chosen, ONE]) == chosen


def test_the_choice_never_changes_between_versions() -> None:
    """An upgrade must move no pod to another address."""
    assert [choose(pod, [ONE, TWO, THREE]) for pod in PODS[:6]] == [ONE, TWO, TWO, THREE, THREE, ONE]


def test_policies_of_one_gateway_share_the_pods_choice() -> None:
    for pod in PODS[:50]:
        key = PLAN.key_for(pod, ("a", "b", "c"))
        assert key is not None
        names, ids4, ids6 = key
        mine = choose(pod, [ONE, TWO])
        assert (names, ids4, ids6) == (("a", "b", "c"), (mine, BANK, mine), (SIX, BANK, SIX))


@pytest.mark.parametrize(
    ("addresses", "ids4", "ids6"),
    [
        (("172.16.0.50",), (ONE,), (ONE,)),
        (("2001:db8::50",), (SIX,), (SIX,)),
        (("2001:db8::50", "172.16.0.50"), (ONE,), (SIX,)),
        ((), (), ()),
    ],
)
def test_a_family_that_a_gateway_lacks_is_led_to_the_other(
    addresses: tuple[str, ...], ids4: tuple[str, ...], ids6: tuple[str, ...]
) -> None:
    of = replace(PLAN, egress_ips=tuple(egress("partner", address, 1) for address in addresses))
    assert of.ids_of("partner") == (ids4, ids6)


def test_a_pod_gets_the_set_of_its_choice_and_no_other() -> None:
    other = {ONE: TWO, TWO: ONE}
    for pod in PODS[:20]:
        mine = choose(pod, [ONE, TWO])
        right = PolicySet(1, ("a",), (mine,), (), (SIX,))
        wrong = PolicySet(2, ("a",), (other[mine],), (), (SIX,)), PolicySet(3, ("a",), (mine,), (), (mine,))
        assert replace(PLAN, policy_sets=(*wrong, right)).set_for(pod, ("a",)) == right
        assert replace(PLAN, policy_sets=wrong).set_for(pod, ("a",)) is None


@pytest.mark.parametrize("policies", [(), ("a", "gone"), ("gone",)])
def test_no_set_for_what_the_plan_does_not_lead(policies: tuple[str, ...]) -> None:
    assert PLAN.set_for(PODS[0], policies) is None


def test_without_a_number_for_its_gateway_a_policy_has_no_set() -> None:
    bare = replace(PLAN, egress_ips=EGRESS_IPS[1:], policy_sets=(PolicySet(1, ("b",), (BANK,), ()),))
    assert bare.key_for(PODS[0], ("a", "b")) is None
    assert bare.set_for(PODS[0], ("b",)) is None


def test_a_pod_whose_name_is_not_utf8_has_its_egress_ip_too() -> None:
    """One such pod must not end the planning of all."""
    names = (os.fsdecode(b"\xff"), "\ud800")
    assert {choose(PodIdentity(name, name, {}), [ONE, TWO]) for name in names} <= {ONE, TWO}


def test_json_form() -> None:
    sets = (
        PolicySet(
            1, ("a",), (ONE,), (Destination("203.0.113.0/24", ONE), Destination("2001:db8::/32", SIX)), (SIX,)
        ),
    )
    placed = replace(EGRESS_IPS[2], interface="eth1", source6="2001:db8::50", mode="VirtualIPAddress")
    whole = replace(PLAN, egress_ips=(placed,), policy_sets=sets)
    assert plans.loads(plans.dumps(whole)) == whole
    assert json.loads(plans.dumps(whole))["version"] == plans.VERSION == 4


@pytest.mark.parametrize("version", [None, 1, 5])
def test_a_plan_of_another_version_is_none(version: int | None) -> None:
    text = json.dumps({**json.loads(plans.dumps(PLAN)), "version": version})
    with pytest.raises(ValueError, match="another version"):
        plans.loads(text)


def test_a_plan_of_the_version_before_keeps_its_numbers_and_says_so() -> None:
    """An agent after an upgrade goes on with the numbers that the tags of running pods stand for."""
    sets = (PolicySet(5, ("a",), (ONE,), (Destination("203.0.113.0/24", ONE),)),)
    now = replace(
        PLAN, policy_sets=sets, uplinks=("eth0",), reserved_sources=("10.0.0.1",), cluster_port=7947
    )
    data = {**json.loads(plans.dumps(now)), "version": 2}
    for key in ("uplinks", "reserved_sources", "egress_sources", "node_links", "cluster_port"):
        del data[key]
    assert plans.loads(json.dumps(data)) == replace(PLAN, policy_sets=sets, version=2)


def test_in_a_plan_of_version_3_a_slot_is_the_number_of_what_comes_out_of_the_tunnel() -> None:
    """The connections of an egress node outlive its agent's upgrade with the marks that they have."""
    data = {**json.loads(plans.dumps(PLAN)), "version": 3}
    for egress in data["egress_ips"]:
        del egress["inlet"]
    assert [egress.inlet for egress in plans.loads(json.dumps(data)).egress_ips] == [
        egress.slot for egress in PLAN.egress_ips
    ]
