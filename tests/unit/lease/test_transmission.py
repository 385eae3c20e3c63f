"""How often a node sends, in virtual time."""

from __future__ import annotations

from gateway_agent.lease.transmission import BURST
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND

from .small_cluster import DURATION, HEARTBEAT, cluster, master, state


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


def test_heartbeats_are_counted() -> None:
    network = cluster()
    name = master(network)
    before = state(network, name).heartbeats
    network.run(20 * HEARTBEAT)
    after = state(network, name).heartbeats
    assert 20 <= after.sent - before.sent <= 22
    assert after.late == before.late


def test_a_heartbeat_after_a_stop_is_late() -> None:
    network = cluster()
    (standby, *_) = [name for name in network.machines if name not in ("w1", master(network))]
    before = state(network, standby).heartbeats.late
    network.stop(standby)
    network.run(3 * HEARTBEAT)
    network.resume(standby)
    network.run(HEARTBEAT)
    assert state(network, standby).heartbeats.late == before + 1


def test_the_margin_of_a_lease_shrinks_with_the_way_to_the_voters() -> None:
    def margin(delay_ns: int) -> int:
        network = cluster()
        network.max_delay_ns = delay_ns
        network.run(2 * SECOND)
        shown = [state(network, name).egress[0].margin_ms for name in network.machines]
        (found,) = [each for each in shown if each is not None]
        return found

    near, far = margin(MILLISECOND), margin(30 * MILLISECOND)
    assert far < near < (DURATION - HEARTBEAT) // MILLISECOND + 1
