"""The phases of an egress IP: which event is legal in which, and which records stay."""

from __future__ import annotations

import itertools

import pytest

from gateway_agent.lease.egress_ips.egress_ip import (
    LEASED,
    TRANSITIONS,
    EgressIPs,
    Event,
    HandoverState,
    IllegalTransition,
    Phase,
)
from gateway_agent.lease.limits import FORGET_NS, MAX_IDS
from gateway_agent.lease.mastership.masters import MasterTable
from gateway_agent.lease.messages.bodies import MasterAnnouncement
from gateway_agent.lease.voting.protocol import SECOND, LeaseState

from ..simulation import Network

ONE, TWO = "0000000000000001", "0000000000000002"
LEASE = LeaseState(epoch=1, first_seq=1, asked_at=0)
HANDOVER = HandoverState("g2", "drained", SECOND, {"w1"})
PATHS = {
    Phase.IDLE: (),
    Phase.WAITING: (Event.MASTERLESS,),
    Phase.REQUESTING: (Event.MASTERLESS, Event.ASK),
    Phase.OWNING: (Event.MASTERLESS, Event.ASK, Event.GRANT),
    Phase.HANDING_OVER: (Event.MASTERLESS, Event.ASK, Event.GRANT, Event.HAND_OVER),
}


def happen(egress_ips: EgressIPs, event: Event) -> None:
    lease = LEASE if event is Event.ASK else None
    egress_ips.transition(ONE, event, lease, HANDOVER if event is Event.HAND_OVER else None)


def brought_to(phase: Phase) -> EgressIPs:
    egress_ips = EgressIPs()
    for event in PATHS[phase]:
        happen(egress_ips, event)
    return egress_ips


@pytest.mark.parametrize(("phase", "event"), [*itertools.product(Phase, Event)], ids=lambda each: each.name)
def test_an_event_leads_where_the_table_says_or_raises(phase: Phase, event: Event) -> None:
    egress_ips = brought_to(phase)
    record = egress_ips.record(ONE)
    before = record.state
    assert before.phase is phase
    after = TRANSITIONS[phase].get(event)
    if after is None:
        with pytest.raises(IllegalTransition, match=event.name):
            happen(egress_ips, event)
        assert record.state == before
        return
    happen(egress_ips, event)
    assert record.phase is after
    assert (record.lease is not None) == (after in LEASED)
    assert (record.state.handover is not None) == (after is Phase.HANDING_OVER)
    others = [each for each in Phase if each not in (Phase.IDLE, after)]
    assert egress_ips.in_phase(*others) == []
    assert egress_ips.in_phase(*([] if after is Phase.IDLE else [after])) == (
        [] if after is Phase.IDLE else [record]
    )


def test_every_phase_is_reached_and_left() -> None:
    reached = {after for events in TRANSITIONS.values() for after in events.values()}
    assert reached == set(Phase) == set(TRANSITIONS)
    assert all(TRANSITIONS[phase] for phase in Phase)


@pytest.mark.parametrize("event", [Event.RELEASE, Event.EXPIRE])
def test_a_node_that_is_master_no_more_says_nothing_of_it(event: Event) -> None:
    egress_ips = brought_to(Phase.HANDING_OVER)
    record = egress_ips.record(ONE)
    record.announced = MasterAnnouncement(ONE, 1, 1.0, False, "", 0)
    happen(egress_ips, event)
    assert record.announced is None


def test_a_record_that_nothing_uses_is_forgotten_after_a_while() -> None:
    egress_ips = EgressIPs()
    egress_ips.record(ONE).used_epoch = 7
    egress_ips.prune([], 0)
    egress_ips.prune([], FORGET_NS - 1)
    assert egress_ips.record(ONE).used_epoch == 7
    egress_ips.prune([ONE], FORGET_NS)
    egress_ips.prune([], 2 * FORGET_NS)
    assert egress_ips.find(ONE) is not None, "it was configured again meanwhile"
    egress_ips.prune([], 3 * FORGET_NS)
    assert egress_ips.find(ONE) is None


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.IDLE])
def test_a_record_in_a_phase_is_kept(phase: Phase) -> None:
    egress_ips = brought_to(phase)
    egress_ips.prune([], 0)
    egress_ips.prune([], FORGET_NS)
    assert egress_ips.record(ONE).phase is phase


def test_a_record_is_kept_as_long_as_its_master_is_followed() -> None:
    egress_ips = EgressIPs()
    masters = MasterTable(egress_ips)
    masters.on_announcement("g1", [MasterAnnouncement(ONE, 1, 1.0, False, "", 0)], SECOND, 0)
    egress_ips.prune([], 0)
    egress_ips.prune([], FORGET_NS)
    assert masters.of(ONE).master == "g1"
    masters.silence(SECOND, FORGET_NS)
    egress_ips.prune([], FORGET_NS)
    egress_ips.prune([], 2 * FORGET_NS)
    assert egress_ips.find(ONE) is None


def test_ids_of_others_are_admitted_as_long_as_there_is_room_and_own_ones_always() -> None:
    egress_ips = EgressIPs()
    for number in range(MAX_IDS):
        assert egress_ips.admit(f"{number:016x}") is not None
    assert egress_ips.admit("one more") is None
    assert egress_ips.record("of this node's own configuration") is not None


def test_a_candidate_whose_gateway_is_removed_waits_for_nothing() -> None:
    network = Network(3, 1)
    network.run_until(network.all_agreed, 5 * SECOND)
    [identity] = network.ids
    for name in ("g1", "g2"):
        network.set_ready(name, identity, False)
    network.crash("g3")
    network.run(2 * SECOND)
    network.isolate("g1")
    network.set_ready("g1", identity, True)
    machine = network.machines["g1"]
    assert machine.daemon is not None
    record = machine.daemon.ownership.egress_ips.record(identity)
    network.run_until(lambda: record.phase in (Phase.WAITING, Phase.REQUESTING), 10 * SECOND)
    network.ids = []
    network.configure("g1")
    assert record.phase is Phase.IDLE
    network.run(SECOND)
    assert machine.daemon.next_wake() > machine.clock(network.now), "the daemon would wake up without end"
