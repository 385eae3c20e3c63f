"""Announcements of a node about itself: what is news, and how long a release is repeated."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gateway_agent.lease.egress_ips.egress_ip import EgressIP, EgressIPs, Event
from gateway_agent.lease.egress_ips.master_entry import MasterEntry
from gateway_agent.lease.egress_ips.running_leases import RunningLeases
from gateway_agent.lease.mastership.own_masters import REPEAT_NS, OwnMasters
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND, LeaseState, Release

ONE = "0000000000000001"


def own() -> tuple[OwnMasters, EgressIPs, EgressIP]:
    """Return a node that owns one egress IP by a lease that ends after 9 s."""
    egress_ips = EgressIPs()
    lease = LeaseState(3, first_seq=1, asked_at=0, held_epoch=3, until=9 * SECOND)
    for event in (Event.MASTERLESS, Event.ASK, Event.GRANT):
        record = egress_ips.transition(ONE, event, lease)
    return OwnMasters(egress_ips, RunningLeases(egress_ips)), egress_ips, record


def add(masters: OwnMasters, record: EgressIP, shown: str = "172.16.0.7", **of_lease: Any) -> bool:
    assert record.lease is not None
    lease = replace(record.lease, **of_lease)
    before = MasterEntry("g2", 2, gone="released by g2: drained", planned=True)
    return masters.add(record, lease, shown, before, 250 * MILLISECOND, 1_000 * SECOND)


def test_what_did_not_change_is_no_news_and_keeps_its_reason() -> None:
    masters, _, record = own()
    assert add(masters, record)
    [said] = masters.announcements(SECOND)
    assert (said.epoch, said.since, said.reason) == (3, 1_000.0, "released by g2: drained")
    assert (said.silent_ms, said.planned) == (250, True)
    assert not add(masters, record)
    changes: tuple[dict[str, Any], ...] = ({"held_epoch": 4}, {"without_quorum": True})
    for number, change in enumerate(changes):
        assert add(masters, record, **change), number
        [again] = masters.announcements(SECOND)
        assert (again.since, again.reason, again.silent_ms, again.planned) == (
            said.since,
            said.reason,
            0,
            False,
        )
    assert add(masters, record, shown="172.16.0.8")


def test_a_handover_that_begins_is_news() -> None:
    masters, egress_ips, record = own()
    assert add(masters, record)
    egress_ips.transition(ONE, Event.HAND_OVER)
    assert add(masters, record)
    assert [each.leaving for each in masters.announcements(SECOND)] == [True]


def test_a_node_whose_lease_has_ended_says_nothing() -> None:
    masters, egress_ips, record = own()
    add(masters, record)
    assert masters.announcements(9 * SECOND - 1)
    assert masters.announcements(9 * SECOND) == ()
    egress_ips.transition(ONE, Event.RELEASE)
    assert masters.announcements(SECOND) == ()


@pytest.mark.parametrize(
    ("before", "quorum", "reason"),
    [
        (MasterEntry(), True, "first master"),
        (MasterEntry("g2", 2), True, "g2 silent for 250 ms"),
        (MasterEntry("", 2, lost="g2 silent for 1500 ms"), True, "g2 silent for 1500 ms"),
        (MasterEntry("g2", 2), False, "g2 silent for 250 ms; no majority of the voters answers"),
    ],
)
def test_the_reason_for_a_takeover(before: MasterEntry, quorum: bool, reason: str) -> None:
    masters, _, record = own()
    assert record.lease is not None
    lease = replace(record.lease, without_quorum=not quorum)
    masters.add(record, lease, "", before, 250 * MILLISECOND, 0)
    [said] = masters.announcements(0)
    assert said.reason == reason


def test_a_release_is_repeated_for_a_while_and_the_newest_of_a_node_replaces_the_one_before() -> None:
    masters, _, _ = own()
    first, second = (Release(ONE, epoch, "g1", 1, "drained") for epoch in (3, 4))
    passed_on = Release(ONE, 3, "g2", 1, "drained")
    masters.release(first, 0)
    masters.release(passed_on, 0)
    masters.release(second, SECOND // 2)
    assert set(masters.releases(REPEAT_NS - 1)) == {second, passed_on}
    assert masters.releases(REPEAT_NS) == (second,)
    masters.forget_old(SECOND // 2 + REPEAT_NS)
    assert masters.releases(0) == ()
