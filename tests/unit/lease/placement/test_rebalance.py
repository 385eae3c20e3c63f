"""Handovers to a better node in virtual time: by request, for failback, for an even spread."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.lease.placement.rebalance import FAILBACK_NS, Loads
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND
from gateway_agent.lease.voting.voter_set import PROPOSER_LEASE

from ..mastership.test_handover import GAP
from ..simulation import Network
from ..small_cluster import cluster, master, until_another
from ..test_election import others


@pytest.mark.parametrize("asked", ["w1", "g1", "g2", "g3"])
def test_an_operator_may_ask_any_node_for_a_handover(asked: str) -> None:
    network = cluster()
    old = master(network)
    wanted = next(name for name in ("g3", "g2", "g1") if name != old)
    network.move(asked, network.ids[0], wanted)
    assert until_another(network, old) <= GAP
    assert master(network) == wanted
    network.run(3 * SECOND)
    assert master(network) == wanted, "it is asked for once"
    assert network.all_agreed()


@pytest.mark.parametrize(("seconds", "moves"), [(1, True), (5, False)])
def test_a_handover_waits_a_moment_for_its_node(seconds: int, moves: bool) -> None:
    network = cluster()
    old = master(network)
    wanted = others(network, old)[0]
    network.set_ready(wanted, network.ids[0], False)
    network.run(10 * MILLISECOND)
    network.move(old, network.ids[0], wanted)
    network.run(seconds * SECOND)
    assert master(network) == old
    network.set_ready(wanted, network.ids[0], True)
    network.run(SECOND)
    assert (master(network) == wanted) == moves


def test_a_handover_to_a_node_that_cannot_serve_moves_nothing() -> None:
    network = cluster()
    old = master(network)
    wanted = next(name for name in ("g3", "g2", "g1") if name != old)
    network.set_ready(wanted, network.ids[0], False)
    network.move(old, network.ids[0], wanted)
    network.run(SECOND)
    assert master(network) == old


@pytest.mark.parametrize("automatic", [True, False])
def test_a_node_that_returns_is_given_back_what_was_its_own_only_by_choice(automatic: bool) -> None:
    network = cluster()
    network.failback = automatic
    for name in network.machines:
        network.configure(name)
    network.run(2 * FAILBACK_NS)
    home = master(network)
    network.crash(home)
    until_another(network, home)
    network.start(home)
    network.run(FAILBACK_NS - SECOND)
    assert master(network) != home, "not before it has been well for a while"
    network.run(2 * SECOND + 2 * SECOND)
    assert (master(network) == home) == automatic


def test_new_addresses_spread_even_where_one_node_learns_of_them_first() -> None:
    network = Network(3, 1, ids=1, heartbeat_ns=50 * MILLISECOND, duration_ns=250 * MILLISECOND)
    network.run(3 * SECOND)
    network.ids += [f"{number:016x}" for number in range(2, 7)]
    network.configure("g2")
    network.run(SECOND)
    assert all(network.holders(identity) == ["g2"] for identity in network.ids[1:])
    for name in network.machines:
        network.configure(name)
    network.run(5 * SECOND)
    masters = [network.holders(identity)[0] for identity in network.ids]
    loads = [masters.count(name) for name in ("g1", "g2", "g3")]
    assert max(loads) - min(loads) <= 1
    takeovers = network.takeovers
    network.run(20 * SECOND)
    assert network.takeovers == takeovers


def test_a_node_that_has_been_away_is_given_nothing_back_even_while_the_addresses_are_new() -> None:
    network = Network(3, 1, ids=6, heartbeat_ns=50 * MILLISECOND, duration_ns=250 * MILLISECOND)
    network.run(4 * SECOND)
    away = network.holders(network.ids[0])[0]
    network.isolate(away)
    network.run(2 * SECOND)
    network.heal()
    network.run(9 * SECOND)
    assert all(network.holders(identity) != [away] for identity in network.ids)


IDS = (*"abcdef", PROPOSER_LEASE)
NODES = ("", "g1", "g2", "g3")


@given(
    st.dictionaries(st.sampled_from(IDS), st.sampled_from(NODES)),
    st.sets(st.sampled_from(IDS[:-1])),
    st.lists(st.sampled_from(NODES), max_size=4),
)
def test_loads_that_are_kept_equal_those_that_are_counted_anew(
    masters: dict[str, str], fresh: set[str], moves: list[str]
) -> None:
    loads = Loads(masters, fresh)
    for identity, node in zip([each for each in masters if each != PROPOSER_LEASE], moves, strict=False):
        loads.move(identity, node)
        masters[identity] = node
    real = {identity: node for identity, node in masters.items() if identity != PROPOSER_LEASE}
    counted = Counter(real.values())
    assert {node: loads[node] for node in NODES} == {node: counted[node] for node in NODES}
    assert set(loads.givers()) == {node for identity, node in real.items() if identity in fresh}
    kept = {node for identity, node in real.items() if identity not in fresh}
    assert {node for node in NODES if loads.keeps(node)} == kept
