"""Probes that are lost while the machine stands still say nothing about the gateway."""

from __future__ import annotations

import pytest

from tests.lab.silence import Probe
from tests.lab.stalls import AFTER_NS, Stall, Stalls, lost_while_running

STALL = Stall(1000, 2000)


@pytest.mark.parametrize(
    ("sent", "counts"), [(999, True), (1000, False), (2000 + AFTER_NS, False), (2001 + AFTER_NS, True)]
)
def test_only_probes_in_a_pause_or_shortly_after_are_left_out(sent: int, counts: bool) -> None:
    lost, answered = Probe(sent, ""), Probe(sent, "192.0.2.1")
    assert lost_while_running([answered, lost], [STALL]) == ([lost] if counts else [])
    assert lost_while_running([answered, lost], []) == [lost]


def test_all_processors_are_watched_until_the_end() -> None:
    with Stalls() as stalls:
        found = stalls.stop()
    assert all(stall.begin < stall.end for stall in found)
