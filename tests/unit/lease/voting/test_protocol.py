"""Quorums, and the ends of leases and grants."""

from __future__ import annotations

import pytest

from gateway_agent.lease.voting.protocol import (
    MILLISECOND,
    NEVER,
    RATE_BOUND,
    Quorum,
    lease_end,
)

ABC = Quorum(1, (("a", "b", "c"),), ("a", "b", "c"))


@pytest.mark.parametrize("duration_ms", [50, 100, 250, 600, 5_000, 60_000])
def test_every_grant_outlives_its_lease_whatever_the_clocks_within_the_bound(duration_ms: int) -> None:
    duration = duration_ms * MILLISECOND
    lease_in_true_time = lease_end(0, duration, margin_ns=0) / (1 - RATE_BOUND)
    grant_in_true_time = duration / (1 + RATE_BOUND)
    assert lease_in_true_time < grant_in_true_time


@pytest.mark.parametrize(
    ("moments", "at"),
    [
        ({}, NEVER),
        ({"a": 5}, NEVER),
        ({"a": 5, "b": 9}, 9),
        ({"a": 5, "b": 9, "c": 1}, 5),
        ({"a": 5, "x": 1}, NEVER),
    ],
)
def test_when_a_quorum_can_be_had(moments: dict[str, int], at: int) -> None:
    assert ABC.met_at(moments) == at


def test_a_joint_quorum_needs_a_majority_of_each_set() -> None:
    joint = Quorum(2, (("a", "b", "c", "d"), ("a", "b", "c")), ("a", "b", "c", "d"))
    assert not joint.reached_by({"a", "d", "c"} - {"c"})
    assert not joint.reached_by({"a", "b"})
    assert joint.reached_by({"a", "b", "d"})
    assert not Quorum(0, (), ("a",)).reached_by({"a"})
