"""Single failures in virtual time: what happens, how fast, and for what reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway_agent.lease.effects import Effect
from gateway_agent.lease.ipc import KeeperState
from gateway_agent.lease.lifecycle import ORPHAN_NS
from gateway_agent.lease.messages.outbox import Send
from gateway_agent.lease.placement.candidates import WARM_UP_NS
from gateway_agent.lease.status import report
from gateway_agent.lease.transmission import BURST
from gateway_agent.lease.virtual_ips.serving import AddAddress, Announce, Open, Ticket
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND
from gateway_agent.lease.voting.voter_set import PROPOSER_LEASE

from .effort import seeds
from .simulated_kernel import QUEUEING
from .simulation import MAC, Network, TwoMasters

HEARTBEAT, DURATION = 50 * MILLISECOND, 250 * MILLISECOND
SILENCE = 265 * MILLISECOND
"""Longest silence: the lease of 250 ms, a round trip and the lateness of timers."""


def cluster(
    egress: int = 3,
    workers: int = 1,
    seed: int = 1,
    availability_first: bool = False,
    duration_ns: int = DURATION,
) -> Network:
    network = Network(
        egress,
        workers,
        seed=seed,
        heartbeat_ns=HEARTBEAT,
        duration_ns=duration_ns,
        availability_first=availability_first,
    )
    network.max_delay_ns = MILLISECOND
    network.run_until(network.all_agreed, 3 * SECOND)
    network.run(SECOND)
    return network


def state(network: Network, name: str) -> KeeperState:
    machine = network.machines[name]
    assert machine.daemon is not None
    return report(machine.daemon, machine.clock(network.now))


def master(network: Network) -> str:
    (name,) = network.holders(network.ids[0])
    return name


def until_another(network: Network, old: str, limit: int = 3 * SECOND) -> int:
    """Virtual time until a worker's tunnel leads to another master."""
    return network.run_until(lambda: network.leads_to("w1", network.ids[0]) not in ("", QUEUEING, old), limit)


@pytest.mark.parametrize("seed", range(10))
def test_a_crashed_master_is_replaced_when_its_lease_has_ended(seed: int) -> None:
    network = cluster(seed=seed)
    old = master(network)
    network.run(seed * 7 * MILLISECOND)
    network.crash(old)
    assert until_another(network, old) <= SILENCE + 5 * MILLISECOND
    (*_, change) = state(network, "w1").changes
    assert (change.before, change.after) == (old, master(network))
    assert change.reason.startswith(f"{old} unheard for ")
    assert 200 <= change.silent_ms <= 330


@pytest.mark.parametrize("seed", range(10))
def test_with_a_lease_of_little_more_than_three_heartbeats_nobody_waits_for_his_own_heartbeat(
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
    assert (seen.egress[0].state, seen.egress[0].reason) == ("standby", "hears no majority of the voters")


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


def test_a_stopping_node_that_nobody_replaces_does_not_wait_for_ever() -> None:
    network = cluster(egress=1, workers=2)
    machine = network.machines["g1"]
    stop(network, "g1")
    network.run(1900 * MILLISECOND)
    assert machine.daemon is not None
    assert not machine.daemon.finished(machine.clock(network.now))
    network.run(200 * MILLISECOND)
    assert machine.daemon.finished(machine.clock(network.now))


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


def test_a_machine_that_has_the_address_too_is_told_and_answered_at_a_bounded_rate() -> None:
    network = cluster()
    old = master(network)
    network.squatted.add(network.address(network.ids[0]))
    network.run(12 * SECOND)
    assert master(network) == old, "a majority says that it is in the right"
    [conflict] = state(network, old).conflicts
    assert (conflict.mac, conflict.interface) == (MAC, "eth1")
    kernel = network.machines[old].kernel
    last = [at for at, _ in kernel.announced if at > network.machines[old].clock(network.now) - 11 * SECOND]
    assert 2 <= len(last) <= 11
    network.squatted.clear()
    network.run(40 * SECOND)
    assert state(network, old).conflicts == ()


def test_an_address_that_a_stranger_has_is_taken_by_nobody_until_the_stranger_lets_go() -> None:
    network = Network(egress=3, workers=1, heartbeat_ns=HEARTBEAT, duration_ns=DURATION, squatted=True)
    for _ in range(100):
        network.run(100 * MILLISECOND)
        assert network.holders(network.ids[0]) == []
    for name in ("g1", "g2", "g3"):
        [told] = state(network, name).egress
        assert f"belongs to another machine, {MAC} on eth1" in told.reason
        assert told.reason in state(network, name).problems
        assert all(not member.ready and MAC in member.reason for member in state(network, name).members)
    network.squatted.clear()
    network.run_until(network.all_agreed, 4 * SECOND)


def test_the_lan_is_asked_before_the_first_takeover_only() -> None:
    """A failover waits for no answer: not for that of a machine which had the address at the first takeover."""
    network = cluster()
    old = master(network)
    others = {"g1", "g2", "g3"} - {old}
    assert {network.probes[name] for name in others} == {1}
    network.squatted.add(network.address(network.ids[0]))
    network.crash(old)
    assert until_another(network, old) < SILENCE + 20 * MILLISECOND
    # A master asks each few seconds, from one second on after it has taken over.
    assert {network.probes[name] for name in others} == {1}


def test_a_node_that_knows_nothing_of_a_master_takes_no_address_for_its_answer() -> None:
    network = cluster()
    old = master(network)
    fresh = next(name for name in ("g1", "g2", "g3") if name != old)
    network.reboot(fresh)
    network.start(fresh)
    network.run(5 * SECOND)
    assert master(network) == old
    assert state(network, fresh).egress[0].reason == ""
    assert all(member.ready for member in state(network, fresh).members)


def test_the_first_claims_are_answered_at_once_and_many_at_a_bounded_rate() -> None:
    network = cluster()
    machine = network.machines[master(network)]
    address = network.address(network.ids[0])
    network.run(3 * SECOND)

    def answered(milliseconds: int, claims: int) -> int:
        """Announcements in that time, with so many claims spread over it."""
        before = len(machine.kernel.announced)
        for _ in range(claims):
            network.claim(machine.name, address)
            network.run(milliseconds * MILLISECOND // claims)
        return len(machine.kernel.announced) - before

    for _ in range(3):
        assert answered(100, 1) == 1
    assert answered(500, 50) == 0
    assert 9 <= answered(10_000, 200) <= 12


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


def test_a_node_that_has_just_come_back_stands_behind_the_others() -> None:
    network = cluster()
    old = master(network)
    network.crash(old)
    successor = network.run_until(lambda: network.holders(network.ids[0]), SECOND) and master(network)
    network.start(old)
    network.run(WARM_UP_NS - 500 * MILLISECOND)
    network.set_ready(successor, network.ids[0], False)
    until_another(network, successor)
    assert master(network) not in (old, successor)


def test_a_node_that_has_just_come_back_serves_where_nobody_else_can() -> None:
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


def test_a_node_has_its_say_at_once_but_not_without_end() -> None:
    """Each word is answered by all: if each answer gave reason for a word, the nodes would drown each other."""
    network = cluster()
    name, peers = master(network), len(network.machines) - 1
    network.sent.clear()
    for number in range(400):
        network.set_ready(name, network.ids[0], number % 2 == 1)
        network.run(MILLISECOND)
    scheduled, urgent = 400 * MILLISECOND // HEARTBEAT, BURST + 400 * MILLISECOND // (HEARTBEAT // 4)
    answers = 3 * peers * (scheduled + urgent)
    assert network.sent[name] <= peers * (scheduled + urgent + 2) + answers
    network.run_until(network.all_agreed, 3 * SECOND)


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


def silence(network: Network) -> tuple[int, bool]:
    """Milliseconds of the last takeover as a worker tells, and whether it was planned."""
    (*_, change) = state(network, "w1").changes
    assert change.after
    return change.silent_ms, change.planned


@pytest.mark.parametrize("seed", range(5))
def test_a_lease_that_was_lost_is_told_with_its_silence_though_the_release_came_before_the_takeover(
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


def test_a_master_that_is_its_own_successor_is_told_with_its_silence() -> None:
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


def test_a_planned_handover_is_told_as_one() -> None:
    network = cluster()
    old = master(network)
    network.drain(old)
    until_another(network, old)
    assert silence(network) == (0, True)
