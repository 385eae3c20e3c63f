"""One or two nodes, and clusters without a majority, in virtual time: the node that serves alone."""

from __future__ import annotations

import pytest

from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND

from ..simulation import Network
from ..small_cluster import DURATION, HEARTBEAT, cluster, master, state


def test_a_lone_node_is_master() -> None:
    network = Network(1, 0, heartbeat_ns=HEARTBEAT, duration_ns=DURATION)
    network.run(SECOND)
    assert network.holders(network.ids[0]) == ["g1"]
    assert not state(network, "g1").egress[0].without_quorum


@pytest.mark.parametrize("egress", [1, 2])
def test_of_two_nodes_the_survivor_is_master_and_says_so(egress: int) -> None:
    network = Network(egress, 2 - egress, heartbeat_ns=HEARTBEAT, duration_ns=DURATION)
    network.run(2 * SECOND)
    dies = "w1" if egress == 1 else master(network)
    left = next(name for name in network.machines if name != dies)
    network.crash(dies)
    network.run(SECOND)
    (egress_ip,) = state(network, left).egress
    assert (egress_ip.state, egress_ip.without_quorum) == ("master", True)
    network.start(dies)
    network.run(2 * SECOND)
    assert network.all_agreed()
    assert not state(network, left).egress[0].without_quorum


def test_of_two_survivors_one_lets_go_when_they_meet() -> None:
    network = Network(2, 0, heartbeat_ns=HEARTBEAT, duration_ns=DURATION)
    network.run(2 * SECOND)
    network.exclusive = network.lan = False
    network.isolate("g1")
    network.run(2 * SECOND)
    assert network.holders(network.ids[0]) == ["g1", "g2"]
    network.heal()
    network.run(SECOND)
    assert network.all_agreed()


def test_of_two_survivors_on_one_lan_the_second_finds_the_address_taken() -> None:
    network = Network(2, 0, heartbeat_ns=HEARTBEAT, duration_ns=DURATION)
    network.run(2 * SECOND)
    network.isolate("g1")
    network.run(10 * SECOND)
    assert len(network.holders(network.ids[0])) == 1
    assert all(state(network, name).conflicts == () for name in network.machines), "the claim is right"


@pytest.mark.parametrize("availability_first", [True, False])
def test_without_a_majority_the_owner_chooses(availability_first: bool) -> None:
    network = cluster(egress=3, workers=1, availability_first=availability_first)
    network.exclusive = False
    network.crash("g1")
    network.crash("g2")
    network.run(2900 * MILLISECOND)
    assert network.holders(network.ids[0]) == []
    network.run(1100 * MILLISECOND)
    assert network.holders(network.ids[0]) == (["g3"] if availability_first else [])
