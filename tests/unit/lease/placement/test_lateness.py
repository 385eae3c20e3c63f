"""A machine that is late again and again, in virtual time: it gets calmer by itself, and says why."""

from __future__ import annotations

import random

import pytest

from gateway_agent.lease.ipc import LATE
from gateway_agent.lease.placement.lateness import TOO_OFTEN, WINDOW_NS, Lateness
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND

from ..effort import seeds
from ..simulation import Network
from ..small_cluster import cluster, master, state, until_another


def starve(network: Network, name: str, seconds: float) -> None:
    """Stop the node's daemon for so long, as a starved machine does."""
    network.stop(name)
    network.run(int(seconds * SECOND))
    network.resume(name)
    network.run(2 * SECOND)


def problems(network: Network, name: str) -> list[str]:
    found = [problem for problem in state(network, name).problems if "processor time" in problem]
    assert state(network, name).kinds == dict.fromkeys(found, LATE)
    return found


def starve_too_often(network: Network, name: str) -> None:
    """Bring the node to be master again and again, and starve it each time."""
    for number in range(TOO_OFTEN):
        if master(network) != name:
            network.move("w1", network.ids[0], name)
            network.run(3 * SECOND)
        assert master(network) == name
        assert problems(network, name) == [], number
        starve(network, name, 1.5)


@pytest.mark.parametrize("seed", seeds(2, 5))
def test_a_node_that_is_late_again_and_again_takes_over_only_what_no_other_can(seed: int) -> None:
    network = cluster(seed=seed)
    late = master(network)
    starve_too_often(network, late)
    assert len(problems(network, late)) == 1
    successor = master(network)
    assert successor != late
    network.crash(successor)
    until_another(network, successor)
    (third,) = {"g1", "g2", "g3"} - {late, successor}
    assert master(network) == third
    network.start(successor)
    network.run(WINDOW_NS)
    assert problems(network, late) == [], "it has been calm for long enough"
    assert network.all_agreed()


def test_a_node_that_is_late_serves_what_no_other_can() -> None:
    network = cluster()
    late = master(network)
    starve_too_often(network, late)
    for name in {"g1", "g2", "g3"} - {late}:
        network.set_ready(name, network.ids[0], False)
    network.run(SECOND)
    assert master(network) == late


@pytest.mark.parametrize("seed", seeds(2, 4))
def test_one_starved_machine_among_three_ends_to_be_master(seed: int) -> None:
    """It is stopped for 1.5 to 8 s at random: the simulation checks with each step that there are never two masters."""
    source = random.Random(seed)
    network = cluster(seed=seed)
    starved = "g1"
    for _ in range(12):
        starve(network, starved, source.uniform(1.5, 8))
        network.run(source.randrange(500) * MILLISECOND)
    assert master(network) != starved
    taken = network.takeovers
    for _ in range(6):
        starve(network, starved, source.uniform(1.5, 8))
    assert network.takeovers == taken


@pytest.mark.parametrize("stalls", [True, False])
def test_a_machine_that_is_still_starved_is_not_calm_because_it_has_nothing_to_lose(stalls: bool) -> None:
    network = cluster()
    late = master(network)
    starve_too_often(network, late)
    for _ in range(3):
        assert master(network) != late
        network.run(WINDOW_NS // 2 - 4 * SECOND)
        starve(network, late, 1.5 if stalls else 0.1)
    assert bool(problems(network, late)) == stalls
    network.run(WINDOW_NS)
    assert problems(network, late) == []


@pytest.mark.parametrize("seed", seeds(2, 4))
def test_each_of_the_machines_that_starve_says_so_whether_it_has_leases_or_not(seed: int) -> None:
    """The machines of one host: two of them are never master, and without their votes the third one is not either."""
    source = random.Random(seed)
    network = cluster(seed=seed)
    names = ("g1", "g2", "g3")
    standbys = [name for name in names if name != master(network)]
    for number in range(TOO_OFTEN):
        assert [problems(network, name) for name in standbys] == [[], []], number
        for name in standbys:
            network.stop(name)
            network.run(source.randrange(30) * MILLISECOND)
        network.run(int(source.uniform(0.4, 2) * SECOND))
        for name in standbys:
            network.resume(name)
        network.run(3 * SECOND)
    assert [len(problems(network, name)) for name in standbys] == [1, 1]
    network.run(WINDOW_NS)
    assert [problems(network, name) for name in names] == [[], [], []]


def test_a_node_that_is_no_egress_node_is_idle_and_not_late() -> None:
    network = cluster()
    for _ in range(TOO_OFTEN + 1):
        starve(network, "w1", 1.5)
    assert problems(network, "w1") == []


def test_a_stall_that_ends_several_leases_counts_once() -> None:
    lateness = Lateness()
    for number in range(1, TOO_OFTEN):
        now = number * 5 * SECOND
        lateness.stall(SECOND, SECOND // 4, now)
        for later in range(TOO_OFTEN):
            lateness.lose(now + later * 10 * MILLISECOND)
        assert not lateness.is_late(now)
    lateness.stall(SECOND, SECOND // 4, TOO_OFTEN * 5 * SECOND)
    assert lateness.is_late(TOO_OFTEN * 5 * SECOND)


def test_single_losses_are_no_lateness() -> None:
    lateness = Lateness()
    for number in range(10):
        lateness.lose(number * WINDOW_NS // 2)
        assert not lateness.is_late(number * WINDOW_NS // 2)


def test_a_node_that_is_cut_off_again_and_again_is_not_late() -> None:
    """Its daemon runs as it should: more processor time would change nothing."""
    network = cluster()
    name = master(network)
    for _ in range(TOO_OFTEN + 1):
        if master(network) != name:
            network.move("w1", network.ids[0], name)
            network.run(3 * SECOND)
        assert master(network) == name
        network.isolate(name)
        network.run(2 * SECOND)
        assert master(network) != name
        network.heal()
        network.run(2 * SECOND)
    assert problems(network, name) == []
