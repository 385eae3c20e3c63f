"""The silence of an egress IP, and how long packets wait for the next master."""

from __future__ import annotations

import pytest

from gateway_agent.lease.egress_ips.master_entry import QUEUE_NS, MasterEntry
from gateway_agent.lease.voting.protocol import MILLISECOND

SUSPECT = 150 * MILLISECOND
RECEIVED_AT = 1000 * MILLISECOND
RELEASED = RECEIVED_AT + 20 * MILLISECOND
NOW = RECEIVED_AT + 300 * MILLISECOND


@pytest.mark.parametrize(
    ("entry", "silent"),
    [
        # It is the first master.
        (MasterEntry(), 0),
        # Nobody knows when it fell silent: since its last message at the most.
        (MasterEntry("g1", 1, received_at=RECEIVED_AT), NOW - RECEIVED_AT),
        # It was heard to the end.
        (MasterEntry("g1", 1, received_at=RECEIVED_AT, gone="stop", gone_at=RELEASED), NOW - RELEASED),
        # Its release came through another node, long after its last message: it may have been cut off before.
        (
            MasterEntry("g1", 1, received_at=RECEIVED_AT, gone="stop", gone_at=RECEIVED_AT + SUSPECT + 1),
            NOW - RECEIVED_AT,
        ),
        (MasterEntry("g1", 1, received_at=RECEIVED_AT, gone="stop", gone_at=RELEASED, planned=True), 0),
    ],
)
def test_the_silence_is_an_upper_bound(entry: MasterEntry, silent: int) -> None:
    assert entry.silent_ns(SUSPECT, NOW) == silent


def test_a_planned_handover_that_no_node_took_up_becomes_a_silence() -> None:
    entry = MasterEntry("g1", 1, received_at=RECEIVED_AT, gone="drain", gone_at=RELEASED, planned=True)
    assert entry.silent_ns(SUSPECT, RELEASED + QUEUE_NS - 1) == 0
    assert entry.silent_ns(SUSPECT, RELEASED + QUEUE_NS) == QUEUE_NS


def test_packets_do_not_wait_for_ever() -> None:
    entry = MasterEntry("g1", 1, leaving_at=RECEIVED_AT)
    assert entry.is_queueing(RECEIVED_AT + QUEUE_NS - 1)
    assert not entry.is_queueing(RECEIVED_AT + QUEUE_NS)
    assert not MasterEntry("", 1, leaving_at=RECEIVED_AT).is_queueing(RECEIVED_AT), (
        "there is no master that leaves"
    )
    assert not MasterEntry("g1", 1).is_queueing(RECEIVED_AT)
