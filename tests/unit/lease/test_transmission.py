"""How often a node sends, in virtual time."""

from __future__ import annotations

from gateway_agent.lease.transmission import BURST
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND

from .small_cluster import HEARTBEAT, cluster, master


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
