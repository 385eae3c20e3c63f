"""A lease daemon at rest does little for each egress IP. Its calls are counted: a busy machine changes nothing."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest

from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND

from .simulation import Machine, Network

CORE = "gateway_agent/lease/"
SETTLED_NS = 20 * SECOND
"""Time after which an egress IP may move for an even spread, because nothing has been taken over for long."""
FEW, MANY = 3, 96
MOST_CALLS = 400
"""Calls for each egress IP more, in a second of all nodes: some in each renewal, and in what each node looks through
once in a second. Half of it is measured."""


class Unchecked(Network):
    """Nothing but the daemons: the checks of the invariants look at each egress IP, too."""

    def _check(self, machine: Machine) -> None:
        pass


def calls_at_rest(egress_ips: int) -> float:
    """Return the number of calls of the core in a second of three egress nodes and a worker."""
    network = Unchecked(
        3, 1, ids=egress_ips, seed=1, heartbeat_ns=50 * MILLISECOND, duration_ns=250 * MILLISECOND
    )
    network.run(SETTLED_NS)
    assert network.all_agreed()
    before, calls = sys.getprofile(), 0

    def count(frame: FrameType, event: str, _: Any) -> None:
        nonlocal calls
        calls += event == "call" and CORE in frame.f_code.co_filename

    sys.setprofile(count)
    try:
        network.run(2 * SECOND)
    finally:
        sys.setprofile(before)
    return calls / 2


@pytest.fixture(scope="module")
def few() -> float:
    return calls_at_rest(FEW)


def test_a_daemon_at_rest_does_little_for_each_egress_ip(few: float) -> None:
    more = calls_at_rest(MANY) - few
    assert more / (MANY - FEW) <= MOST_CALLS, (few, more)
