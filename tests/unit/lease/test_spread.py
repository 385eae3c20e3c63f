"""Which addresses move after a loss, and where they go: only what is homeless, to where the fewest are."""

from __future__ import annotations

import copy
from collections import Counter
from functools import lru_cache

import pytest

from gateway_agent.lease.placement.masterless import REBALANCE_WINDOW_NS
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND

from .effort import DEEP, seeds
from .simulation import Network

LONG_AGO = REBALANCE_WINDOW_NS + SECOND
HEARTBEAT, DURATION = 50 * MILLISECOND, 250 * MILLISECOND
SHAPES = [
    (8, 64),
    (8, 24),
    (7, 20),
    (2, 1),
    (5, 30),
    (6, 13),
    (4, 16),
    (2, 9),
    (7, 1),
    (4, 5),
    (3, 9),
    (3, 12),
]
"""Egress nodes and virtual addresses. Without ``DEEP`` each fourth one settles for long, so that is a small one."""
LOSSES = [(shape, seed) for place, shape in enumerate(SHAPES) for seed in (range(4) if DEEP else [place % 4])]
"""Each shape with each seed, or each with one of its own."""


def spread_out(egress: int, ids: int, seed: int, settled_for_ns: int) -> Network:
    """Return a cluster whose addresses are spread evenly, and were for ``settled_for_ns``."""
    network = Network(egress, 2, ids=ids, seed=seed, heartbeat_ns=HEARTBEAT, duration_ns=DURATION)
    network.max_delay_ns = MILLISECOND
    network.run_until(lambda: network.all_agreed() and even(network), 10 * SECOND)
    network.run(settled_for_ns)
    return network


def masters(network: Network) -> dict[str, str]:
    return {identity: next(iter(network.holders(identity)), "") for identity in network.ids}


def loads(network: Network, *gone: str) -> list[int]:
    """Return how many addresses each egress node but those ``gone`` is master of."""
    counted = Counter(masters(network).values())
    return [counted[m.name] for m in network.machines.values() if m.egress and m.name not in gone]


def even(network: Network, *gone: str) -> bool:
    return max(loads(network, *gone)) - min(loads(network, *gone)) <= 1


def moved(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {identity for identity in before if before[identity] != after[identity]}


def of(before: dict[str, str], node: str) -> set[str]:
    return {identity for identity, master in before.items() if master == node}


def lose(network: Network, node: str, how: int) -> None:
    """Cut the node off, crash it, or make it unready for everything."""
    if how % 3 == 0:
        network.isolate(node)
    elif how % 3 == 1:
        network.crash(node)
    else:
        network.machines[node].unready.update(network.ids)
        network.configure(node)


@pytest.mark.parametrize(
    ("shape", "seed"), LOSSES, ids=[f"{nodes} nodes {ids} addresses {seed}" for (nodes, ids), seed in LOSSES]
)
def test_after_a_loss_only_what_is_homeless_moves_and_the_survivors_serve_equally_many(
    shape: tuple[int, int], seed: int
) -> None:
    """At any moment: in the first second after the start, while addresses are young, and long after."""
    egress, ids = shape
    settled_for = [300 * MILLISECOND, 2 * SECOND, 5 * SECOND, LONG_AGO][seed]
    network = spread_out(egress, ids, seed, settled_for + seed * 17 * MILLISECOND)
    before = masters(network)
    lost = f"g{seed % egress + 1}"
    lose(network, lost, seed)
    network.run(6 * SECOND)
    after = masters(network)
    assert moved(before, after) == of(before, lost)
    assert even(network, lost), loads(network, lost)


@lru_cache(maxsize=1)
def settled_long_ago() -> Network:
    return spread_out(5, 20, 0, LONG_AGO)


@pytest.mark.parametrize("seed", seeds(4, 12))
def test_survivors_that_do_not_receive_from_each_other_for_a_moment_share_what_is_masterless(
    seed: int,
) -> None:
    """On a busy machine a survivor is suspect to the other in the moment of the loss, which takes everything."""
    network = copy.deepcopy(settled_long_ago())
    network.random.seed(seed)
    before = masters(network)
    lost, one, other = (f"g{(seed + n) % 5 + 1}" for n in range(3))
    network.isolate(lost)
    network.run(seed % 4 * 40 * MILLISECOND)
    network.cut(one, other)
    network.run(280 * MILLISECOND)
    network.blocked.discard((one, other))
    network.run(6 * SECOND)
    assert moved(before, masters(network)) == of(before, lost)
    assert loads(network, lost) == [5, 5, 5, 5]


@pytest.mark.parametrize("seed", seeds(2, 4))
def test_a_second_loss_moves_nothing_of_those_that_are_well(seed: int) -> None:
    network = spread_out(4, 12, seed, SECOND)
    first, second = f"g{seed % 4 + 1}", f"g{(seed + 1) % 4 + 1}"
    network.isolate(first)
    # By then a voter that hears the others has replaced it.
    network.run(12 * SECOND)
    before = masters(network)
    assert even(network, first)
    network.crash(second)
    network.run(6 * SECOND)
    assert moved(before, masters(network)) == of(before, second)
    assert even(network, first, second)


@pytest.mark.parametrize("seed", seeds(1, 3))
def test_an_address_that_an_operator_has_moved_stays_where_it_is(seed: int) -> None:
    network = spread_out(3, 9, seed, SECOND)
    identity, to = network.ids[seed], "g1" if masters(network)[network.ids[seed]] != "g1" else "g2"
    network.move("w1", identity, to)
    network.run(20 * SECOND)
    assert network.holders(identity) == [to]


@pytest.mark.parametrize("seed", seeds(1, 4))
@pytest.mark.parametrize("late_ms", [1000, 1500, 4000])
def test_nodes_that_become_ready_one_after_another_serve_equally_many(seed: int, late_ms: int) -> None:
    """The first serves everything and shares it with the second, before the third is there."""
    network = Network(3, 2, ids=9, seed=seed, heartbeat_ns=HEARTBEAT, duration_ns=DURATION)
    network.max_delay_ns = MILLISECOND
    for name in ("g1", "g2"):
        network.machines[name].unready.update(network.ids)
        network.configure(name)
    network.run_until(network.all_agreed, 10 * SECOND)
    for name in ("g1", "g2"):
        network.run(late_ms * MILLISECOND)
        network.machines[name].unready.clear()
        network.configure(name)
    network.run(6 * SECOND)
    assert loads(network) == [3, 3, 3]
    taken = network.takeovers
    network.run(20 * SECOND)
    assert network.takeovers == taken


@pytest.mark.parametrize("carried", [True, False])
@pytest.mark.parametrize("seed", seeds(1, 2))
def test_few_addresses_move_twice_until_all_nodes_serve_equally_many(seed: int, carried: bool) -> None:
    """Without workers to wait for, a handover takes no time: none is in progress when the next one is decided on."""
    network = Network(4, 2, ids=16, seed=seed, heartbeat_ns=HEARTBEAT, duration_ns=DURATION)
    network.max_delay_ns = MILLISECOND
    if not carried:
        network.carrying = {name: set() for name in network.machines}
        for name in network.machines:
            network.configure(name)
    for late in ("g3", "g4"):
        network.machines[late].unready.update(network.ids)
        network.configure(late)
    network.run_until(lambda: all(len(network.holders(each)) == 1 for each in network.ids), 10 * SECOND)
    taken = network.takeovers
    for late in ("g3", "g4"):
        network.machines[late].unready.clear()
        network.configure(late)
    network.run_until(lambda: network.all_agreed() and even(network), 30 * SECOND)
    network.run(5 * SECOND)
    # The facts of two nodes that give may differ for a moment.
    assert network.takeovers - taken <= 16 // 2 + 2
