"""Whom a node hears while the voters change: one that is new has answered nobody yet."""

from __future__ import annotations

import pytest

from gateway_agent.lease.ipc import KeeperConfig, Peer
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND
from gateway_agent.lease.voting.quorum_view import QuorumView
from gateway_agent.lease.voting.voter_set import Memory, VoterSet, VoterSetState

from ..simulation import Machine, Network

LEASE = 250 * MILLISECOND
CHANGED = 100 * SECOND
"""Time at which the voters change, long after the start of the node."""


class Watched(Network):
    """Keeps each moment at which a master counts as isolated."""

    def __init__(self, egress: int, workers: int, seed: int) -> None:
        self.isolated: list[tuple[str, int]] = []
        super().__init__(egress, workers, seed=seed)

    def _check(self, machine: Machine) -> None:
        super()._check(machine)
        now = machine.clock(self.now)
        daemon = machine.daemon
        if daemon is not None and daemon.ownership.holds(self.ids[0], now) and daemon.isolated(now):
            self.isolated.append((machine.name, self.now))


@pytest.mark.parametrize("seed", range(5))
def test_a_master_is_not_isolated_while_dead_voters_are_replaced(seed: int) -> None:
    """A master that is isolated drops new connections, though its lease goes on."""
    network = Watched(3, 3, seed)
    network.run_until(network.all_agreed, 5 * SECOND)
    (master,) = network.holders(network.ids[0])
    for name in sorted({"g1", "g2", "g3"} - {master}):
        network.crash(name)
        network.run(14 * SECOND)
        daemon = network.machines[master].daemon
        assert daemon is not None
        assert name not in daemon.voter_set.current.members
    assert network.holders(network.ids[0]) == [master]
    assert network.isolated == []


def grown(availability_first: bool = False) -> QuorumView:
    """Return how ``a`` sees a set of three to which ``d`` is added at :data:`CHANGED`; of the three ``c`` is dead."""
    memory = Memory(VoterSet(1, ("a", "b", "c")), None, (0, ""), LEASE, granted_until=0, learned_at=0)
    peers = tuple(Peer(name, f"10.0.0.{number}", True) for number, name in enumerate("abcd", 1))
    config = KeeperConfig("a", 7947, "", LEASE // 5, LEASE, availability_first, peers, ())
    view = QuorumView(config.electorate, VoterSetState("a", memory, now=0), silent_until=0, now=0)
    for voter in "ab":
        view.on_message(voter, CHANGED - MILLISECOND)
        view.answer(voter, CHANGED - MILLISECOND)
    view.voter_set_state.adopt(VoterSet(2, ("a", "b", "c", "d")), CHANGED)
    return view


def test_a_new_voter_has_a_lease_time_to_answer() -> None:
    view = grown()
    assert not view.isolated(CHANGED)
    late = CHANGED + LEASE
    for voter in "ab":
        view.answer(voter, late)
    assert not view.isolated(late - 1)
    assert view.isolated(late)
    view.answer("d", late)
    assert not view.isolated(late)


def test_the_majority_of_the_set_before_has_to_answer_meanwhile() -> None:
    assert grown().isolated(CHANGED + LEASE - 1)


def test_availability_first_is_no_reason_to_serve_alone_while_a_voter_is_new() -> None:
    assert not grown(availability_first=True).may_serve_without_quorum(CHANGED)
