"""Planned handovers in virtual time: the workers hold their packets, one fence closes, the next one opens."""

from __future__ import annotations

import pytest

from gateway_agent.lease.egress_ips.master_entry import QUEUE_NS
from gateway_agent.lease.lifecycle import ATTENDED_NS
from gateway_agent.lease.mastership.handover import QUEUE_TIMEOUT_NS
from gateway_agent.lease.mastership.subscribers import SUBSCRIBER_TTL_NS
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND

from ..simulated_kernel import QUEUEING
from ..simulation import Network
from ..small_cluster import cluster, master, state, until_another

GAP = 12 * MILLISECOND
"""Longest gap: three round trips of at most 2 ms, and the time that the workers' messages take."""


def held_back(network: Network, name: str) -> bool:
    return network.leads_to(name, network.ids[0]) == QUEUEING


def drained(network: Network) -> str:
    old = master(network)
    network.drain(old)
    return old


@pytest.mark.parametrize("seed", range(5))
def test_the_fence_closes_only_when_the_workers_hold_their_packets(seed: int) -> None:
    network = cluster(workers=2, seed=seed)
    old = drained(network)
    network.run_until(lambda: old not in network.speakers(network.ids[0]), GAP)
    assert held_back(network, "w1")
    assert held_back(network, "w2")
    assert until_another(network, old) <= GAP
    assert network.speakers(network.ids[0]) == [master(network)]
    assert not held_back(network, "w1")
    (*_, change) = state(network, "w1").changes
    assert (change.silent_ms, change.reason) == (0, f"released by {old}: drained")


def test_a_worker_that_has_died_is_not_waited_for() -> None:
    network = cluster(workers=2)
    network.crash("w2")
    network.run(SUBSCRIBER_TTL_NS)
    old = drained(network)
    assert until_another(network, old) <= GAP


def test_a_node_that_has_just_stopped_is_not_waited_for() -> None:
    """Egress nodes are stopped one after another: packets must not wait for those that have ended."""
    network = cluster(egress=4, workers=2)
    first = master(network)
    network.stop_daemon(first)
    until_another(network, first)
    network.run(100 * MILLISECOND)
    network.crash(first)
    network.run(300 * MILLISECOND)
    second = drained(network)
    assert until_another(network, second) <= GAP


def test_a_worker_that_dies_in_this_moment_is_not_waited_for_without_end() -> None:
    network = cluster(workers=2)
    network.crash("w2")
    old = drained(network)
    network.run(QUEUE_TIMEOUT_NS - 10 * MILLISECOND)
    assert network.speakers(network.ids[0]) == [old], "what still comes to it is forwarded"
    assert held_back(network, "w1")
    assert until_another(network, old) <= 10 * MILLISECOND + GAP


@pytest.mark.parametrize("late_ms", [40, 100, 300])
def test_a_master_waits_for_a_worker_that_is_late(late_ms: int) -> None:
    """On a busy machine: a fence that closes before the worker holds loses what the worker still sends."""
    network = cluster(workers=2)
    network.lag["w2"] = late_ms * MILLISECOND
    network.run(SECOND)
    old = drained(network)
    network.run_until(lambda: old not in network.speakers(network.ids[0]), SECOND)
    assert held_back(network, "w1")
    assert held_back(network, "w2")


@pytest.mark.parametrize("attended", [True, False])
def test_a_keeper_with_a_sigterm_hands_over_by_itself(attended: bool) -> None:
    """A SIGTERM reaches daemon and agent at once, or the agent is dead: none of that counts."""
    network = cluster(workers=2)
    old = master(network)
    machine = network.machines[old]
    machine.agent = attended
    network.stop_daemon(old)
    network.configure(old)
    assert until_another(network, old) <= GAP
    network.run(100 * MILLISECOND)
    assert machine.daemon is not None
    assert machine.daemon.finished(machine.clock(network.now))
    (*_, change) = state(network, "w1").changes
    assert change.reason == f"released by {old}: stopping"


def test_packets_are_not_queued_for_ever_if_no_node_takes_over() -> None:
    network = cluster(workers=2)
    old = master(network)
    for name in ("g1", "g2", "g3"):
        if name != old:
            network.cut(name, "w1")
            network.isolate(name)
    network.drain(old)
    network.run(QUEUE_NS + 100 * MILLISECOND)
    assert not held_back(network, "w1")


@pytest.mark.parametrize("known", [True, False])
def test_a_slow_node_without_pods_of_the_address_is_not_waited_for(known: bool) -> None:
    """A node that is only slow, and has nothing to hold back, must not keep the packets of others waiting."""
    network = cluster(workers=3)
    if known:
        network.carrying["w3"] = set()
        network.configure("w3")
    network.lag["w3"] = 300 * MILLISECOND
    network.run(5 * SECOND)
    old = drained(network)
    assert (until_another(network, old) <= GAP) == known
    assert not known or held_back(network, "w2") is False


def test_a_node_whose_first_pod_goes_by_the_address_is_waited_for_at_once() -> None:
    network = cluster(workers=2)
    network.carrying["w2"] = set()
    network.configure("w2")
    network.run(5 * SECOND)
    network.carrying["w2"] = set(network.ids)
    network.configure("w2")
    network.run(20 * MILLISECOND)
    network.lag["w2"] = 300 * MILLISECOND
    old = drained(network)
    network.run_until(lambda: old not in network.speakers(network.ids[0]), SECOND)
    assert held_back(network, "w2")


def test_a_node_whose_agent_is_away_is_waited_for() -> None:
    """The plugin alone may have led a pod by the address meanwhile."""
    network = cluster(workers=2)
    network.carrying["w2"] = set()
    network.configure("w2")
    network.machines["w2"].agent = False
    network.run(ATTENDED_NS + 3 * SECOND)
    network.lag["w2"] = 300 * MILLISECOND
    old = drained(network)
    assert until_another(network, old) > 300 * MILLISECOND
