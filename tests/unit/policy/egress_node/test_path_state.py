"""A path is open when all probes get through, and after a closing when they have done so for a growing time."""

from __future__ import annotations

import pytest

from gateway_agent.policy.egress_node import path_state
from gateway_agent.policy.egress_node.path_state import (
    AGAIN_S,
    CALM_S,
    FIRST_HOLD_S,
    MAX_HOLD_S,
    UNPROVEN,
    UNTESTABLE,
    PathState,
    Todo,
)

REASON, HELD = (
    "a firewall drops them",
    "packets were dropped on this node: ready when all get through for {} s",
)
ROUND_S, DOUBTFUL_S, SEARCH_S = 1.0, 0.5, 0.3
"""Seconds between rounds, between doubtful ones, and for a search."""


class Node:
    """One path, driven by the clock of the test as the agent drives it."""

    def __init__(self) -> None:
        self.state, self.now = PathState(), 1000.0

    def probe(self, lost: bool) -> None:
        """Carry out one round, with the search that it asks for."""
        self.state, todo = path_state.after_round(self.state, lost, False, self.now)
        if todo is Todo.FIND_CAUSE:
            self.now += SEARCH_S
            self.state = path_state.closed(self.state, REASON, self.now)
        self.now += DOUBTFUL_S if self.state.doubtful else ROUND_S

    def probe_for(self, seconds: float, lost: bool) -> None:
        until = self.now + seconds
        while self.now < until:
            self.probe(lost)

    def standby(self) -> str:
        """Return why this node should not take over from another one that serves."""
        return self.state.reason or self.state.pending(serving=False, served=True)

    def time_until_ready(self) -> float:
        """Let all probes get through. Return the seconds from the first one until the node may take over."""
        begun = self.now
        while True:
            at = self.now
            self.probe(lost=False)
            if not self.standby():
                return at - begun

    def close(self) -> None:
        while not self.state.reason:
            self.probe(lost=True)


def test_a_path_counts_from_the_first_round_that_gets_through() -> None:
    node = Node()
    assert node.standby() == UNPROVEN
    assert node.time_until_ready() == 0.0


def test_a_path_that_is_closed_from_the_start_never_counts() -> None:
    node, said = Node(), set()
    for _ in range(20):
        said.add(node.standby())
        node.probe(lost=True)
    assert said == {UNPROVEN, REASON}


@pytest.mark.parametrize(
    ("serving", "served", "message"), [(True, True, ""), (False, True, UNPROVEN), (False, False, UNPROVEN)]
)
def test_who_serves_goes_on_after_a_restart_of_its_agent(serving: bool, served: bool, message: str) -> None:
    assert PathState().pending(serving, served) == message


def test_one_round_that_loses_a_probe_closes_nothing() -> None:
    node = Node()
    for _ in range(20):
        node.probe(lost=False)
        node.probe(lost=True)
        assert node.standby() == ""


def test_the_hold_time_doubles_with_each_closing_up_to_its_maximum() -> None:
    node, times = Node(), []
    node.probe(lost=False)
    for _ in range(8):
        node.close()
        times.append(node.time_until_ready())
    expected = [min(FIRST_HOLD_S * 2**number, MAX_HOLD_S) for number in range(8)]
    assert all(e - ROUND_S <= t <= e + ROUND_S for t, e in zip(times, expected, strict=True)), times
    assert times[-1] <= MAX_HOLD_S + ROUND_S


def test_after_a_calm_time_a_closing_counts_as_the_first_one() -> None:
    node = Node()
    node.probe(lost=False)
    for _ in range(4):
        node.close()
        node.time_until_ready()
    node.probe_for(CALM_S, lost=False)
    node.close()
    assert node.state.hold_s == FIRST_HOLD_S


def test_a_probe_that_is_lost_begins_the_hold_time_anew() -> None:
    node = Node()
    node.close()
    for _ in range(10):
        node.probe(lost=False)
        node.probe(lost=True)
        assert node.standby() == HELD.format(5)
    assert node.time_until_ready() >= FIRST_HOLD_S - ROUND_S


@pytest.mark.parametrize("period", [2.0, 3.0, 5.0, 10.0, 30.0])
def test_a_rule_that_comes_and_goes_moves_an_address_a_few_times_and_no_more(period: float) -> None:
    """Ten minutes: each time the node becomes ready, an address may move to it and away again."""
    node, moves, ready = Node(), [], True
    node.probe(lost=False)
    begun = node.now
    while node.now < begun + 600:
        node.probe(lost=int((node.now - begun) / period) % 2 == 0)
        if (node.standby() == "") != ready:
            ready = not ready
            moves.append(node.now - begun)
    assert len(moves) <= 12
    assert all(at < 12 * period for at in moves), moves


def test_a_node_in_its_hold_time_serves_what_no_node_serves() -> None:
    node = Node()
    node.close()
    node.probe(lost=False)
    assert node.state.pending(serving=False, served=True) == HELD.format(5)
    assert node.state.pending(serving=False, served=False) == ""
    assert node.state.pending(serving=True, served=True) == ""


def test_the_cause_is_looked_for_again_after_a_while() -> None:
    state, todo = path_state.after_round(PathState(), True, False, 0.0)
    assert todo is Todo.NOTHING
    state, todo = path_state.after_round(state, True, False, 1.0)
    assert todo is Todo.FIND_CAUSE
    state = path_state.closed(state, REASON, 1.0)
    state, todo = path_state.after_round(state, True, False, AGAIN_S)
    assert todo is Todo.NOTHING
    state, todo = path_state.after_round(state, True, False, AGAIN_S + 1.0)
    assert todo is Todo.FIND_CAUSE
    assert path_state.closed(state, REASON, AGAIN_S + 1.0).hold_s == FIRST_HOLD_S


def test_a_probe_that_enters_no_tunnel_leaves_a_node_ready_after_two_searches() -> None:
    state, _ = path_state.after_round(PathState(), True, False, 0.0)
    state, _ = path_state.after_round(state, True, False, 1.0)
    state = path_state.untested(state, "nothing comes in by lo", 1.0)
    assert state.pending(serving=False, served=True) == UNPROVEN
    state, todo = path_state.after_round(state, True, False, 2.0)
    assert todo is Todo.FIND_CAUSE
    state = path_state.untested(state, "nothing comes in by lo", 2.0)
    assert (state.reason, state.pending(serving=False, served=True)) == ("", "")
    assert path_state.after_round(state, True, False, 3.0)[1] is Todo.NOTHING
    assert UNTESTABLE.pending(serving=False, served=True) == ""


def test_a_size_that_does_not_get_through_closes_nothing() -> None:
    state, todo = path_state.after_round(PathState(), False, True, 0.0)
    assert todo is Todo.NOTHING
    state, todo = path_state.after_round(state, False, True, 1.0)
    assert todo is Todo.MEASURE
    assert state.pending(serving=False, served=True) == ""
    assert path_state.after_round(state, False, True, 2.0)[1] is Todo.NOTHING
    state, _ = path_state.after_round(state, False, False, 3.0)
    assert (state.problem, state.missed_large) == ("", 0)
