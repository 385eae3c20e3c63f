"""The changes that subscribers are told of, and when."""

from __future__ import annotations

import pytest

from gateway_agent.lease.mastership.subscribers import SUBSCRIPTION_NS, Subscribers
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND

from ..simulation import Network
from ..small_cluster import HEARTBEAT, cluster, master, state, until_another


def silence(network: Network) -> tuple[int, bool]:
    """Milliseconds of the last takeover as a worker tells, and whether it was planned."""
    (*_, change) = state(network, "w1").changes
    assert change.after
    return change.silent_ms, change.planned


@pytest.mark.parametrize("seed", range(5))
def test_a_lease_that_was_lost_is_announced_with_its_silence_though_the_release_came_before_the_takeover(
    seed: int,
) -> None:
    """The master is cut off until its lease has ended, and then says itself that it has."""
    network = cluster(seed=seed)
    old, cut_at = master(network), network.now
    network.isolate(old)
    network.run_until(lambda: not network.holders(network.ids[0]), SECOND)
    network.heal()
    until_another(network, old)
    actual = (network.now - cut_at) // MILLISECOND
    silent, planned = silence(network)
    assert not planned
    # Its last sign is up to one heartbeat older than the cut.
    assert actual - 10 <= silent <= actual + HEARTBEAT // MILLISECOND + 10


@pytest.mark.parametrize("seed", range(5))
def test_a_lease_that_was_lost_by_a_live_node_is_announced_with_its_silence(seed: int) -> None:
    """The master receives nothing any more, packets of pods neither; all that it sends arrives, its release too."""
    network = cluster(seed=seed)
    old, cut_at = master(network), network.now
    for other in {"g1", "g2", "g3", "w1"} - {old}:
        network.cut(other, old)
    until_another(network, old)
    actual = (network.now - cut_at) // MILLISECOND
    silent, planned = silence(network)
    assert not planned
    assert actual - 10 <= silent <= actual + HEARTBEAT // MILLISECOND + 10


def test_a_master_that_is_its_own_successor_is_announced_with_its_silence() -> None:
    """No other node can serve: the outside has heard nothing all the same."""
    network = cluster()
    old = master(network)
    for name in {"g1", "g2", "g3"} - {old}:
        network.set_ready(name, network.ids[0], False)
    network.isolate(old)
    cut_at = network.now
    network.run(SECOND)
    network.heal()
    network.run_until(lambda: network.holders(network.ids[0]) == [old], 10 * SECOND)
    actual = (network.now - cut_at) // MILLISECOND
    network.run(100 * MILLISECOND)
    silent, planned = silence(network)
    assert not planned
    assert actual - 10 <= silent <= actual + HEARTBEAT // MILLISECOND + 10


def test_a_planned_handover_is_announced_as_one() -> None:
    network = cluster()
    old = master(network)
    network.drain(old)
    until_another(network, old)
    assert silence(network) == (0, True)


def test_subscribers_are_informed_at_once_again_and_not_for_ever() -> None:
    subscribers = Subscribers()
    subscribers.add("w1", 0)
    subscribers.push(0)
    moments = [ms for ms in range(1, 2001) if subscribers.take_due(ms * MILLISECOND)]
    assert moments == [20, 100, 300, 1000]
    assert subscribers.current(SUBSCRIPTION_NS - 1) == ["w1"]
    assert subscribers.current(SUBSCRIPTION_NS) == []
    assert SUBSCRIPTION_NS > 4 * SECOND, "a subscription may be lost twice"
