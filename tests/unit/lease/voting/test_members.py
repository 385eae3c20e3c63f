"""An egress node by its last heartbeat: what it can serve, and why not."""

from __future__ import annotations

import pytest

from gateway_agent.lease.voting.members import NO_MAJORITY, Member


@pytest.mark.parametrize(
    ("member", "ready"),
    [
        (Member(0), True),
        (Member(0, known=("x",)), True),
        (Member(0, known=()), False),
        (Member(0, reason="stopping"), False),
        (Member(0, unready={"x": "eth1 is down"}), False),
        (Member(0, unready={"y": "eth1 is down"}), True),
        # Without a majority it gets no lease, which is for the voters to decide.
        (Member(0, isolated=True), True),
    ],
)
def test_ready_for(member: Member, ready: bool) -> None:
    assert member.ready_for("x") is ready


def test_the_reason_is_the_one_that_concerns_most() -> None:
    unready = {"x": "eth1 is down"}
    assert Member(0, True, "stopping", unready).why_not() == "stopping"
    assert Member(0, True, "", unready).why_not() == NO_MAJORITY
    assert Member(0, False, "", unready).why_not() == "eth1 is down"
    assert Member(0).why_not() == ""
