"""Other machines with a virtual address: what counts as one, whom the LAN is asked for, and when it has answered."""

from __future__ import annotations

import pytest

from gateway_agent.lease.ipc import EgressIPSpec
from gateway_agent.lease.virtual_ips.conflict_detection import (
    ABSENT_NS,
    ANSWER_NS,
    FORGET_NS,
    SETTLE_NS,
    ConflictDetection,
)
from gateway_agent.lease.virtual_ips.serving import GRACE_NS, Probe
from gateway_agent.lease.voting.protocol import NEVER, SECOND

ONE, ADDRESS, MAC, OTHER_MAC = "0000000000000001", "172.16.0.50", "02:00:00:00:00:99", "02:00:00:00:00:98"
SPEC = EgressIPSpec(ONE, "gw", ADDRESS, ("g1", "g2"), ready=True, interface="eth1")
START = 100 * SECOND


def received(detection: ConflictDetection, now: int, mac: str = MAC, identity: str = ONE) -> bool:
    return detection.on_arp_claim(identity, ADDRESS, mac, "eth1", now, now)


def test_a_claim_is_news_once_and_again_from_another_machine_or_after_a_silence() -> None:
    detection = ConflictDetection()
    assert received(detection, START)
    assert not received(detection, START + 5 * SECOND)
    (conflict,) = detection.conflicts(START + 5 * SECOND)
    assert (conflict.mac, conflict.since) == (MAC, START / SECOND)
    assert received(detection, START + 6 * SECOND, OTHER_MAC)
    assert received(detection, START + 6 * SECOND + FORGET_NS, OTHER_MAC)


def test_a_conflict_is_over_if_it_is_not_repeated_and_is_none_where_the_address_is_not_served() -> None:
    detection = ConflictDetection()
    received(detection, START)
    assert detection.conflicts(START + FORGET_NS - 1)
    assert not detection.conflicts(START + FORGET_NS)
    received(detection, START + FORGET_NS, identity="")
    assert not detection.conflicts(START + FORGET_NS)


def test_an_address_is_probed_once_a_second_and_is_clear_without_an_answer_in_time() -> None:
    detection = ConflictDetection()
    assert not detection.is_clear(ADDRESS, 0, START)
    detection.ask(ADDRESS, "eth1", 0, START)
    detection.ask(ADDRESS, "eth1", 0, START + SECOND - 1)
    assert detection.take_probes() == [Probe(ADDRESS, "eth1")]
    assert detection.take_probes() == []
    assert detection.next_wake() == START + ANSWER_NS
    assert not detection.is_clear(ADDRESS, 0, START + ANSWER_NS - 1)
    assert detection.is_clear(ADDRESS, 0, START + ANSWER_NS)
    detection.ask(ADDRESS, "eth1", 0, START + SECOND)
    assert detection.take_probes() == [Probe(ADDRESS, "eth1")]
    received(detection, START + SECOND + 1)
    assert not detection.is_clear(ADDRESS, 0, START + SECOND + ANSWER_NS)


def test_a_node_of_a_worse_rank_asks_when_a_better_one_would_answer_for_the_address() -> None:
    detection, turn = ConflictDetection(), START + 2 * (ANSWER_NS + SETTLE_NS)
    detection.ask(ADDRESS, "eth1", 2, START)
    assert detection.take_probes() == []
    assert detection.next_wake() == turn
    detection.ask(ADDRESS, "eth1", 2, turn)
    assert detection.take_probes() == [Probe(ADDRESS, "eth1")]
    assert detection.is_clear(ADDRESS, 2, turn + ANSWER_NS)


@pytest.mark.parametrize(
    ("last_claim_at", "now", "occupied"),
    [
        (START, START + GRACE_NS - 1, False),
        (START, START + GRACE_NS, True),
        (START, START + ABSENT_NS - 1, True),
        (START, START + ABSENT_NS, False),
        (START + SECOND, START + ABSENT_NS, True),
    ],
)
def test_an_address_is_occupied_while_another_machine_answers_for_longer_than_a_moment(
    last_claim_at: int, now: int, occupied: bool
) -> None:
    detection = ConflictDetection()
    received(detection, START, identity="")
    received(detection, last_claim_at, identity="")
    assert (ONE in detection.vacancy([SPEC], now).occupied) is occupied


def test_an_address_stays_vacant_for_a_while_without_an_answer_but_not_after_a_claim() -> None:
    detection = ConflictDetection()
    detection.probe_first_takeovers([SPEC], START)
    assert detection.vacancy([SPEC], START).pending == [ONE]
    free_at = START + ANSWER_NS
    detection.probe_first_takeovers([SPEC], free_at)
    assert detection.vacancy([SPEC], free_at + FORGET_NS - 1).pending == []
    assert detection.vacancy([SPEC], free_at + FORGET_NS).pending == [ONE]
    received(detection, free_at + SECOND, identity="")
    assert detection.vacancy([SPEC], free_at + SECOND).pending == [ONE]


def test_without_a_majority_each_address_is_unavailable_until_the_lan_was_silent() -> None:
    detection, elsewhere = ConflictDetection(), EgressIPSpec("00", "gw", "172.16.0.51", ("g2",), ready=False)
    turn = START + 2 * (ANSWER_NS + SETTLE_NS)
    detection.probe_each("g1", [SPEC, elsewhere], START)
    assert detection.unavailable("g1", [SPEC, elsewhere], START) == [ONE]
    for now in range(START, turn + SECOND, ANSWER_NS // 2):
        detection.probe_each("g1", [SPEC, elsewhere], now)
    assert {probe.address for probe in detection.take_probes()} == {ADDRESS}
    assert detection.unavailable("g1", [SPEC, elsewhere], turn + 2 * SECOND) == []


def test_nothing_old_is_kept() -> None:
    detection = ConflictDetection()
    detection.probe_first_takeovers([SPEC], START)
    detection.probe_first_takeovers([SPEC], START + ANSWER_NS)
    received(detection, START)
    detection.wake(START + ANSWER_NS)
    assert detection.next_wake() == NEVER
    detection.wake(START + ANSWER_NS + FORGET_NS)
    kept = (detection._by_address, detection._asked, detection._wanted, detection._vacant)
    assert not any(kept)
