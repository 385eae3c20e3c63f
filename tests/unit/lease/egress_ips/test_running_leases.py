"""The kept list of leases that run, and the changes after which it is computed again."""

from __future__ import annotations

from gateway_agent.lease.egress_ips.egress_ip import EgressIPs, Event
from gateway_agent.lease.egress_ips.running_leases import RunningLeases
from gateway_agent.lease.voting.protocol import NEVER, LeaseState

ONE, TWO = "0000000000000001", "0000000000000002"


def holding(egress_ips: EgressIPs, identity: str, until: int) -> LeaseState:
    lease = LeaseState(1, 1, 0, until=until)
    egress_ips.transition(identity, Event.MASTERLESS)
    egress_ips.transition(identity, Event.ASK, lease)
    egress_ips.transition(identity, Event.GRANT, lease)
    return lease


def test_leases_that_run_are_the_same_object_until_one_comes_or_goes() -> None:
    egress_ips = EgressIPs()
    running = RunningLeases(egress_ips)
    assert (running.held(0), running.lost(0), running.next_end()) == ({}, (), NEVER)
    one = holding(egress_ips, ONE, 100)
    held = running.held(0)
    assert held == {ONE: one}
    running.renewals += 1
    one.until = 200
    assert running.held(150) is held
    two = holding(egress_ips, TWO, 300)
    assert running.held(150) == {ONE: one, TWO: two}
    egress_ips.transition(ONE, Event.RELEASE)
    assert running.held(150) == {TWO: two}


def test_a_lease_that_ends_is_lost_in_that_moment() -> None:
    egress_ips = EgressIPs()
    running = RunningLeases(egress_ips)
    holding(egress_ips, ONE, 100)
    two = holding(egress_ips, TWO, 200)
    assert (running.next_end(), running.lost(99)) == (100, ())
    assert (running.lost(100), running.held(100)) == ((ONE,), {TWO: two})
    egress_ips.transition(ONE, Event.EXPIRE)
    assert (running.next_end(), running.lost(100)) == (200, ())
    assert running.lost(200) == (TWO,)
    assert running.held(200) == {}
