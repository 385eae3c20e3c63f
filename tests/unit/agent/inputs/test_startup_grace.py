"""A keeper that has just started has heard nobody: what was known before goes on to hold, and not for ever."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cni.plan import Plan, PlanEgressIP
from gateway_agent.agent.inputs.startup_grace import STARTUP_GRACE_S, isolated, masters
from gateway_agent.lease.ipc import EgressState, KeeperState

LEASE_S = 0.25
ONE, TWO = "00000000000000aa", "00000000000000bb"


def keeper(isolated: bool = False, epoch: int = 0) -> KeeperState:
    known = EgressState(ONE, "g2" if epoch else "", epoch, 0.0, "none", "")
    return KeeperState("w1", 1, (known,), (), ("g1", "g2", "w1"), 1, isolated, {})


def plan(isolated: bool) -> Plan:
    egress = (
        PlanEgressIP(ONE, "one", "", 1, 100, ("g1", "g2"), "g1", 7),
        PlanEgressIP(TWO, "two", "", 2, 101, ("g1",), "g1", 3),
    )
    return replace(Plan("w1", 0x0FF00000, 4799, 1450, (), egress), isolated=isolated)


@pytest.mark.parametrize("before", [False, True])
def test_a_new_keeper_that_receives_from_no_node_changes_nothing_for_a_lease(before: bool) -> None:
    assert isolated(keeper(isolated=True), plan(before), LEASE_S / 2, LEASE_S) is before
    assert isolated(keeper(isolated=True), plan(before), LEASE_S + 0.01, LEASE_S)


@pytest.mark.parametrize("listened", [0.0, LEASE_S, 10.0])
def test_a_keeper_that_receives_from_a_majority_is_believed_at_once(listened: float) -> None:
    assert not isolated(keeper(isolated=False), plan(isolated=True), listened, LEASE_S)


def test_without_a_keeper_what_was_known_holds() -> None:
    assert isolated(None, plan(isolated=True), 10.0, LEASE_S)
    assert not isolated(None, None, 10.0, LEASE_S)
    assert masters(None, plan(isolated=False), 10.0) == {ONE: ("g1", 7), TWO: ("g1", 3)}
    assert masters(None, None, 10.0) == {}


def test_an_unknown_master_counts_when_the_keeper_has_listened_for_long() -> None:
    assert masters(keeper(epoch=0), plan(isolated=False), 0.0) == {}
    assert masters(keeper(epoch=0), plan(isolated=False), STARTUP_GRACE_S) == {ONE: ("", 0)}
    assert masters(keeper(epoch=8), plan(isolated=False), 0.0) == {ONE: ("g2", 8)}
