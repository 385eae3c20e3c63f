"""The pauses between the requests of one candidate."""

from __future__ import annotations

import pytest

from gateway_agent.lease.egress_ips.egress_ip import EgressIPs, Event
from gateway_agent.lease.mastership.acquisition import MAX_PAUSE_NS, STEADY_NS, Acquisition, Timers
from gateway_agent.lease.mastership.owner import Owner
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND, Quorum, Verdict

from ..small_cluster import DURATION, HEARTBEAT

ALONE = Quorum(1, (("g1",),), ("g1",))


def pauses(lost_after_ns: int, alone: bool, lost: bool = True) -> list[int]:
    """How long a candidate waits after each of ten elections that come to nothing, milliseconds.

    ``lost_after_ns``: so long after it had asked the lease is lost.
    """
    timers, now, taken = Timers(HEARTBEAT, DURATION), SECOND, []
    egress_ips = EgressIPs()
    owner = Owner(egress_ips)
    candidate = Acquisition("g1", 1, egress_ips, owner)
    for epoch in range(1, 11):
        began = now
        while not candidate.try_acquire("one", 0, alone, epoch, timers, now):
            now = max(now + 1, candidate.next_wake(timers))
        taken.append((now - began) // MILLISECOND)
        if lost:
            request = owner.request(ALONE, timers.duration_ns, now)
            owner.count("g1", request.seq, Verdict(("one",), ()), now)
            egress_ips.record("one").wait = None
        now += lost_after_ns
        candidate.withdraw("one", Event.EXPIRE if lost else Event.TIME_OUT, "lost")
        candidate.pause("one", timers, now, lost)
    return taken


def doubled(times: int) -> list[int]:
    """Return the minimal pauses, milliseconds: none, then each twice the one before."""
    return [0, *(min(250 << n, MAX_PAUSE_NS // MILLISECOND) for n in range(times - 1))]


@pytest.mark.parametrize("lost", [True, False], ids=["a lease is lost soon", "no majority answers"])
def test_each_election_that_comes_to_nothing_makes_the_next_pause_twice_as_long(lost: bool) -> None:
    taken = pauses(3 * SECOND, alone=False, lost=lost)
    for least, waited in zip(doubled(10), taken, strict=True):
        assert least <= waited <= least + HEARTBEAT // MILLISECOND + 1, taken


def test_a_lease_that_lasts_is_a_success() -> None:
    assert max(pauses(STEADY_NS + 2 * DURATION, alone=False)) <= (DURATION + HEARTBEAT) // MILLISECOND + 1


def test_a_node_that_alone_can_serve_does_not_wait_longer_and_longer() -> None:
    assert max(pauses(3 * SECOND, alone=True)) <= (DURATION + HEARTBEAT) // MILLISECOND + 1
