"""Daemons in virtual time that are told to end, or whose agent is gone: they hand over first."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway_agent.lease.lifecycle import ORPHAN_NS
from gateway_agent.lease.voting.protocol import MILLISECOND

from .simulation import Network
from .small_cluster import cluster, master, state, until_another


def stop(network: Network, name: str) -> None:
    """As SIGTERM does."""
    network.machines[name].stopping = True
    network.configure(name)


@pytest.mark.parametrize("how", [Network.drain, stop])
def test_a_node_that_is_behind_hands_over_what_it_leaves(how: Callable[[Network, str], None]) -> None:
    network = cluster()
    old = master(network)
    network.fall_behind(old)
    how(network, old)
    assert until_another(network, old) <= 100 * MILLISECOND


def test_a_stopping_node_hands_over_and_is_finished() -> None:
    network = cluster()
    old = master(network)
    machine = network.machines[old]
    stop(network, old)
    assert until_another(network, old) <= 10 * MILLISECOND
    network.run(10 * MILLISECOND)
    assert machine.daemon is not None
    assert machine.daemon.finished(machine.clock(network.now))


def test_a_stopping_node_that_no_other_replaces_does_not_wait_for_ever() -> None:
    network = cluster(egress=1, workers=2)
    machine = network.machines["g1"]
    stop(network, "g1")
    network.run(1900 * MILLISECOND)
    assert machine.daemon is not None
    assert not machine.daemon.finished(machine.clock(network.now))
    network.run(200 * MILLISECOND)
    assert machine.daemon.finished(machine.clock(network.now))


def test_a_keeper_without_an_agent_hands_over_after_ten_seconds() -> None:
    network = cluster()
    old = master(network)
    machine = network.machines[old]
    assert machine.daemon is not None
    machine.agent = False
    network.run(ORPHAN_NS - 50 * MILLISECOND)
    assert master(network) == old
    assert not machine.daemon.finished(machine.clock(network.now))
    assert until_another(network, old) <= 300 * MILLISECOND
    network.run(10 * MILLISECOND)
    assert machine.daemon.finished(machine.clock(network.now))
    (*_, change) = state(network, "w1").changes
    assert (change.silent_ms, change.reason) == (0, f"released by {old}: stopping")


def test_a_worker_without_an_agent_ends_as_well() -> None:
    network = cluster()
    machine = network.machines["w1"]
    assert machine.daemon is not None
    machine.agent = False
    network.run(ORPHAN_NS + 300 * MILLISECOND)
    assert machine.daemon.finished(machine.clock(network.now))
