"""The requests and handovers of a node: whose turn it is, what it keeps, and that a pause omits nothing."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest

from gateway_agent.lease.election import STOP_TIMEOUT_NS
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND

from .mastership.test_handover import GAP, drained
from .simulation import Network
from .small_cluster import cluster, master, state, until_another


@pytest.mark.parametrize("seed", range(2))
def test_a_decision_that_is_skipped_would_have_decided_nothing(seed: int) -> None:
    """A node at rest decides only if a fact has changed: without this rule, each effect is the same."""
    rng, network, skipped = random.Random(seed), cluster(workers=1, seed=seed), 0
    for _ in range(12):
        name = rng.choice(["g1", "g2", "g3"])
        changes: list[Callable[[str], None]] = [
            network.crash, network.isolate, network.drain, network.start,
        ]  # fmt: skip
        rng.choice(changes)(name)
        for _ in range(6):
            network.run(rng.randrange(1, 600) * MILLISECOND)
            for machine in network.machines.values():
                if machine.daemon is None or machine.daemon._election._at_rest is None:
                    continue
                skipped += 1
                resting, deciding = copy.deepcopy(machine.daemon), copy.deepcopy(machine.daemon)
                deciding._election._at_rest = None
                now = machine.clock(network.now)
                assert resting.wake(now) == deciding.wake(now)
                assert resting.next_wake() == deciding.next_wake()
        network.heal()
        network.drain(name, False)
        network.start(name)
    assert skipped, "nodes were at rest"


def test_only_the_best_ready_node_takes_over_and_an_unready_one_never() -> None:
    network = cluster()
    old = master(network)
    worse, able = others(network, old)
    network.set_ready(worse, network.ids[0], False)
    network.run(SECOND)
    network.crash(old)
    network.run_until(lambda: network.holders(network.ids[0]) == [able], 3 * SECOND)
    network.crash(able)
    network.run(3 * SECOND)
    assert network.holders(network.ids[0]) == []


def test_a_drained_node_takes_nothing_until_it_may_again() -> None:
    network = cluster(egress=2, workers=2)
    old = drained(network)
    until_another(network, old)
    successor = master(network)
    network.crash(successor)
    network.run(2 * SECOND)
    assert network.holders(network.ids[0]) == []
    network.drain(old, False)
    network.run(SECOND)
    assert master(network) == old


def others(network: Network, name: str) -> list[str]:
    return [node for node in ("g1", "g2", "g3") if node != name]


def irreplaceable(network: Network) -> str:
    """Return the master, while no other node can serve."""
    old = master(network)
    for name in others(network, old):
        network.set_ready(name, network.ids[0], False)
    network.run(SECOND)
    return old


def test_what_no_node_can_take_stays_until_one_can() -> None:
    network = cluster()
    old = irreplaceable(network)
    network.drain(old)
    network.run(3 * SECOND)
    assert network.speakers(network.ids[0]) == [old]
    able = others(network, old)[0]
    network.set_ready(able, network.ids[0], True)
    assert until_another(network, old) <= GAP
    assert master(network) == able
    (*_, change) = state(network, "w1").changes
    assert (change.silent_ms, change.reason) == (0, f"released by {old}: drained")


def test_a_node_that_stops_waits_a_second_for_a_node_that_can() -> None:
    network = cluster()
    old = irreplaceable(network)
    network.machines[old].stopping = True
    network.configure(old)
    network.run(STOP_TIMEOUT_NS - 100 * MILLISECOND)
    assert network.speakers(network.ids[0]) == [old]
    network.run(200 * MILLISECOND)
    assert network.speakers(network.ids[0]) == []
    network.run(SECOND)
    machine = network.machines[old]
    assert machine.daemon is not None
    assert machine.daemon.finished(machine.clock(network.now)), "and for nobody for ever"
