"""Single failures in virtual time: what happens, how fast, and for what reason."""

from __future__ import annotations

import pytest

from gateway_agent.lease.effects import Effect
from gateway_agent.lease.mastership.masters import REPORT_NS
from gateway_agent.lease.messages.outbox import Send
from gateway_agent.lease.placement.candidates import WARM_UP_NS
from gateway_agent.lease.virtual_ips.serving import AddAddress, Announce, Open, Ticket
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND

from .simulation import Network
from .small_cluster import DURATION, HEARTBEAT, SILENCE, cluster, master, state, until_another


@pytest.mark.parametrize("seed", range(10))
def test_a_crashed_master_is_replaced_when_its_lease_has_ended(seed: int) -> None:
    network = cluster(seed=seed)
    old = master(network)
    network.run(seed * 7 * MILLISECOND)
    network.crash(old)
    assert until_another(network, old) <= SILENCE + 5 * MILLISECOND
    (*_, change) = state(network, "w1").changes
    assert (change.before, change.after) == (old, master(network))
    assert change.reason.startswith(f"{old} silent for ")
    assert 200 <= change.silent_ms <= 330


@pytest.mark.parametrize("seed", range(10))
def test_with_a_lease_of_little_more_than_three_heartbeats_no_node_waits_for_its_own_heartbeat(
    seed: int,
) -> None:
    """A candidate finds the master missing after three heartbeats, which are his own only by chance."""
    duration = 180 * MILLISECOND
    network = cluster(seed=seed, duration_ns=duration)
    old = master(network)
    network.run(seed * 7 * MILLISECOND)
    network.crash(old)
    # One round trip of at most 2 ms to be told when, another one to be granted it, and the word to the worker.
    assert until_another(network, old) <= duration + 6 * MILLISECOND


@pytest.mark.parametrize("away_ms", [5, 40, 100])
def test_a_master_whose_daemon_crashes_and_comes_back_within_its_lease_was_silent(away_ms: int) -> None:
    """Its new daemon knows of no master before itself. The others do, and count from its last announcement."""
    network = cluster(seed=3)
    old, crashed_at = master(network), network.now
    network.crash(old)
    network.run(away_ms * MILLISECOND)
    network.start(old)
    network.run_until(lambda: network.speakers(network.ids[0]) == [old], SECOND)
    silent_ms = (network.now - crashed_at) // MILLISECOND
    network.run(SECOND)
    for name in {*network.machines} - {old}:
        (*_, change) = state(network, name).changes
        assert (change.before, change.after, change.reason) == (old, old, f"given up by {old}")
        interval = REPORT_NS if name == "w1" else HEARTBEAT
        assert silent_ms <= change.silent_ms <= silent_ms + interval // MILLISECOND + 5


@pytest.mark.parametrize("seed", range(5))
def test_a_master_that_is_cut_off_falls_silent_first(seed: int) -> None:
    network = cluster(seed=seed)
    old = master(network)
    network.isolate(old)
    assert until_another(network, old) <= SILENCE + 5 * MILLISECOND
    assert old not in network.holders(network.ids[0])
    network.run(SECOND)
    seen = state(network, old)
    assert seen.isolated
    assert (seen.egress[0].state, seen.egress[0].reason) == (
        "standby",
        "has no contact with a majority of the voters",
    )


def test_a_stopped_master_holds_nothing_when_it_wakes_up() -> None:
    network = cluster()
    old = master(network)
    network.stop(old)
    until_another(network, old)
    network.run(3 * SECOND)
    network.resume(old)
    network.run(SECOND)
    assert network.all_agreed()
    assert master(network) != old


@pytest.mark.parametrize("effect", [Ticket, Open, AddAddress, Announce, Send])
@pytest.mark.parametrize("seconds", [0.1, 0.3, 3])
def test_a_master_that_is_stopped_between_two_lines_opens_nothing_when_it_wakes_up(
    effect: type[Effect], seconds: float
) -> None:
    """The simulation checks with each opening that nobody else can speak."""
    network = cluster()
    old = master(network)
    if effect in (AddAddress, Announce):
        # What happens at a takeover only.
        other = next(name for name in ("g1", "g2", "g3") if name != old)
        network.stop_before(other, effect)
        network.move(old, network.ids[0], other)
        old = other
    else:
        network.stop_before(old, effect)
    network.run_until(lambda: network.machines[old].stopped, SECOND)
    network.run(int(seconds * SECOND))
    network.resume(old)
    network.run(3 * SECOND)
    assert network.all_agreed()


@pytest.mark.parametrize("deaf", [True, False], ids=["it hears nothing", "nobody hears it"])
def test_one_way_loss_leads_to_a_new_master(deaf: bool) -> None:
    network = cluster()
    old = master(network)
    for other in network.machines:
        network.cut(*((other, old) if deaf else (old, other)))
    assert until_another(network, old) <= SILENCE + 50 * MILLISECOND
    takeovers = network.takeovers
    network.run(10 * SECOND)
    assert network.takeovers == takeovers, "it disturbs nobody"


def test_a_master_that_is_not_ready_any_more_is_replaced_in_a_round_trip() -> None:
    network = cluster()
    old = master(network)
    network.set_ready(old, network.ids[0], False)
    assert until_another(network, old) <= 10 * MILLISECOND
    (*_, change) = state(network, "w1").changes
    assert (change.silent_ms, change.reason) == (0, f"released by {old}: eth1 is down")
    network.set_ready(old, network.ids[0], True)
    network.run(2 * SECOND)
    assert master(network) != old, "who returns takes nothing back"


def test_a_node_that_is_behind_takes_nothing_over_and_keeps_what_it_has() -> None:
    network = cluster()
    old = master(network)
    network.fall_behind(old)
    network.run(SECOND)
    assert master(network) == old
    first, second = (name for name in ("g1", "g2", "g3") if name != old)
    network.fall_behind(first)
    network.crash(old)
    until_another(network, old)
    assert master(network) == second
    network.set_ready(second, network.ids[0], False)
    network.run(2 * SECOND)
    assert network.holders(network.ids[0]) == []
    network.fall_behind(first, behind=False)
    network.run_until(lambda: network.holders(network.ids[0]) == [first], SECOND)


def test_a_node_that_has_just_come_back_ranks_behind_the_others() -> None:
    network = cluster()
    old = master(network)
    network.crash(old)
    network.run_until(lambda: network.holders(network.ids[0]), SECOND)
    successor = master(network)
    network.start(old)
    network.run(WARM_UP_NS - 500 * MILLISECOND)
    network.set_ready(successor, network.ids[0], False)
    until_another(network, successor)
    assert master(network) not in (old, successor)


def test_a_node_that_has_just_come_back_serves_what_no_other_can() -> None:
    network = cluster(egress=2, workers=2)
    old = master(network)
    network.set_ready(old, network.ids[0], False)
    until_another(network, old)
    successor = master(network)
    network.run(100 * MILLISECOND)
    network.set_ready(old, network.ids[0], True)
    network.run(100 * MILLISECOND)
    network.set_ready(successor, network.ids[0], False)
    assert until_another(network, successor) <= 10 * MILLISECOND
    assert master(network) == old


@pytest.mark.parametrize("edit_reaches_it_after_ms", [-80, -20, 20, 80])
def test_a_master_that_is_no_egress_node_any_more_hands_over(edit_reaches_it_after_ms: int) -> None:
    network = cluster(egress=3, workers=2)
    old = master(network)
    network.machines[old].egress = False
    rest = [name for name in network.machines if name != old]
    first, then = ([old], rest) if edit_reaches_it_after_ms < 0 else (rest, [old])
    for name in first:
        network.configure(name)
    network.run(abs(edit_reaches_it_after_ms) * MILLISECOND)
    for name in then:
        network.configure(name)
    assert until_another(network, old) <= 10 * MILLISECOND
    network.run(10 * SECOND)
    assert network.all_agreed()


def test_many_addresses_of_a_lost_node_are_taken_over_in_time() -> None:
    network = Network(4, 1, ids=48, seed=2, heartbeat_ns=HEARTBEAT, duration_ns=DURATION)
    network.max_delay_ns = MILLISECOND
    network.run_until(network.all_agreed, 3 * SECOND)
    network.run(4 * SECOND)
    lost = max(
        ("g1", "g2", "g3", "g4"), key=lambda name: sum(name in network.holders(i) for i in network.ids)
    )
    network.isolate(lost)
    taken = network.run_until(
        lambda: all(set(network.holders(identity)) - {lost} for identity in network.ids), 3 * SECOND
    )
    assert taken <= 2 * SILENCE
