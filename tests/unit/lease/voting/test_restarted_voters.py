"""Voters that restart, forget or die, in virtual time."""

from __future__ import annotations

import pytest

from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND
from gateway_agent.lease.voting.voter_set import PROPOSER_LEASE

from ..effort import seeds
from ..simulation import Network, TwoMasters
from ..small_cluster import DURATION, HEARTBEAT, SILENCE, cluster, master, state, until_another


def test_a_voter_that_restarts_does_not_grant_what_another_still_holds() -> None:
    """Only its silence forbids it: it has forgotten its grant, and the asking node has none of its own left."""
    network = cluster(egress=3, workers=0)
    old = master(network)
    asking, voter = (name for name in network.machines if name != old)
    network.cut(old, asking)
    network.run(SECOND)
    network.isolate(old)
    network.run(100 * MILLISECOND)
    network.crash(voter)
    network.start(voter)
    try:
        network.run(SECOND)
    except TwoMasters as error:
        pytest.fail(str(error))
    assert master(network) != old


def test_when_all_voters_have_forgotten_the_master_rises_above_the_epoch_that_is_known() -> None:
    network = cluster()
    for _ in range(3):
        old = master(network)
        network.set_ready(old, network.ids[0], False)
        until_another(network, old)
        network.run(100 * MILLISECOND)
        network.set_ready(old, network.ids[0], True)
        network.run(SECOND)
    known = state(network, "w1").egress[0].epoch
    for name in ("g1", "g2", "g3"):
        network.crash(name)
    for name in ("g1", "g2", "g3"):
        network.start(name)
    # The same node may be master again before it learns of the epoch: then all agree already.
    network.run_until(
        lambda: network.all_agreed() and state(network, "w1").egress[0].epoch > known, 4 * SECOND
    )


def test_a_dead_voter_is_replaced_so_that_failures_one_after_another_do_not_add_up() -> None:
    network = cluster(egress=3, workers=3)
    for name in ("g1", "g2"):
        network.crash(name)
        network.run(14 * SECOND)
        assert name not in state(network, "g3").voters
    assert network.holders(network.ids[0]) == ["g3"]
    assert len(state(network, "g3").voters) == 3
    assert network.holders(PROPOSER_LEASE) == ["g3"]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("missing", ["g1", "g3"])
def test_the_first_start_does_not_wait_long_for_a_voter_that_is_missing(workers: int, missing: str) -> None:
    network = Network(3, workers, heartbeat_ns=HEARTBEAT, duration_ns=DURATION)
    network.crash(missing)
    network.run_until(network.all_agreed, SECOND)


@pytest.mark.parametrize("seed", range(10))
def test_restarts_in_the_middle_of_an_election_cost_the_silent_time_of_voters_alone(seed: int) -> None:
    network = cluster(seed=seed)
    old = master(network)
    network.crash(old)
    network.run((100 + 7 * seed) * MILLISECOND)
    others = [name for name in ("g1", "g2", "g3") if name != old]
    for name in others:
        network.crash(name)
    network.run(150 * MILLISECOND)
    for name in others:
        network.start(name)
    network.run_until(lambda: network.followed(network.ids[0]) == {*network.holders(network.ids[0])}, SILENCE)


@pytest.mark.parametrize("egress", [3, 4, 5])
@pytest.mark.parametrize("seed", seeds(3, 10))
def test_voters_that_restart_after_all_grants_have_ended_elect_at_once(egress: int, seed: int) -> None:
    """They neither wait for a heartbeat of their own nor for the next subscription."""
    network = cluster(egress=egress, seed=seed)
    old = master(network)
    others = [name for name in network.machines if name.startswith("g") and name != old]
    for name in (old, *others):
        network.crash(name)
    network.run(DURATION + 20 * MILLISECOND)
    for number, name in enumerate(others):
        network.run(number * seed * MILLISECOND)
        network.start(name)
    took = network.run_until(lambda: len(network.holders(network.ids[0])) == 1, SECOND)
    # Two round trips to meet, one to be heard by a majority, two to be granted it where votes were split.
    assert took <= 12 * MILLISECOND
