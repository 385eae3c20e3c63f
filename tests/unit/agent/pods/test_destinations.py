"""Forwarding entries of a tag, and the connections that a change of them makes stale."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cni.plan import Destination, Plan, PlanEgressIP, PolicySet
from gateway_agent.agent.pods.destinations import NO_ENTRIES, DestinationMap, changed_path

ONE, SIX = "partner 172.16.0.50", "partner 2001:db8::50"
EGRESS = PlanEgressIP(ONE, "partner", "172.16.0.50", 1, 100, ("g1", "g2"), master="g1")
EGRESS6 = PlanEgressIP(SIX, "partner", "2001:db8::50", 2, 101, ("g1", "g2"), master="g2")
SET = PolicySet(
    1,
    ("a",),
    (ONE,),
    (
        Destination("203.0.113.0/24", ONE),
        Destination("2001:db8:9::/48", SIX),
        Destination("192.0.2.0/24", "gone"),
    ),
    (SIX,),
)
PLAN = Plan("g1", 0x0FF00000, 4799, 1450, egress_ips=(EGRESS, EGRESS6), policy_sets=(SET,))


def test_a_master_reaches_its_own_egress_ip_without_a_tunnel() -> None:
    assert DestinationMap(PLAN).of(SET.group) == {
        ("203.0.113.0/24", ONE, "here"),
        ("2001:db8:9::/48", SIX, "tunnel"),
        ("192.0.2.0/24", "gone", ""),
    }


@pytest.mark.parametrize(
    ("direct", "master", "how"), [(True, "", "direct"), (False, "", "tunnel"), (True, "g2", "tunnel")]
)
def test_an_egress_ip_without_a_master_is_left_directly_if_its_owner_wants(
    direct: bool, master: str, how: str
) -> None:
    egress = replace(EGRESS, direct=direct, master=master)
    plan = replace(PLAN, egress_ips=(egress,), policy_sets=(replace(SET, destinations=SET.destinations[:1]),))
    assert DestinationMap(plan).of(SET.group) == {("203.0.113.0/24", ONE, how)}


def test_packets_of_the_family_that_an_egress_ip_does_not_have_leave_directly() -> None:
    both = Destination("2001:db8:9::/48", ONE)
    plan = replace(
        PLAN, egress_ips=(replace(EGRESS, direct=True),), policy_sets=(replace(SET, destinations=(both,)),)
    )
    assert DestinationMap(plan).of(SET.group) == {("2001:db8:9::/48", ONE, "direct")}


def test_without_a_plan_or_a_policy_set_there_are_no_entries() -> None:
    assert DestinationMap(None).of(SET.group) == NO_ENTRIES
    assert DestinationMap(PLAN).of(0) == NO_ENTRIES


def test_the_entries_of_a_tag_are_one_object() -> None:
    entries = DestinationMap(PLAN)
    assert entries.of(SET.group) is entries.of(SET.group)


def test_a_connection_is_stale_if_its_own_path_has_changed() -> None:
    before = DestinationMap(PLAN).of(SET.group)
    moved = DestinationMap(replace(PLAN, egress_ips=(replace(EGRESS, master="g2"), EGRESS6))).of(SET.group)
    changed = changed_path(before, moved)
    assert changed("203.0.113.7")
    assert not changed("2001:db8:9::7")
    assert not changed("198.51.100.1"), "no entry leads there, before or now"


def test_a_connection_goes_on_if_only_the_prefix_of_its_entry_has_changed() -> None:
    narrower = replace(SET, destinations=(Destination("203.0.113.0/25", ONE),))
    now = DestinationMap(replace(PLAN, policy_sets=(narrower,))).of(SET.group)
    changed = changed_path(DestinationMap(PLAN).of(SET.group), now)
    assert not changed("203.0.113.7")
    assert changed("203.0.113.200"), "no entry leads there now"
