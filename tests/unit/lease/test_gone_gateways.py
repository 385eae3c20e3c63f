"""Gateways that come and go for as long as a lease daemon runs, and lengths of leases that are edited node by node."""

from __future__ import annotations

from gateway_agent.lease.node import Effect, LeaseNode
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND

from .simulation import Network
from .test_failover import state


class Measured(Network):
    """Knows the longest datagram that has arrived since it was last asked."""

    longest = 0

    def receive(self, keeper: LeaseNode, data: bytes, source: str, clock: int) -> list[Effect]:
        self.longest = max(self.longest, len(data))
        return super().receive(keeper, data, source, clock)


def longest_later(network: Measured) -> int:
    network.longest = 0
    network.run(3 * SECOND)
    return network.longest


def replace_gateways(network: Network, first: int, count: int) -> None:
    network.ids = [f"{number:016x}" for number in range(first, first + count)]
    for name in network.machines:
        network.configure(name)
    network.run_until(network.all_agreed, 5 * SECOND)
    network.run(4 * SECOND)


def test_gateways_that_are_gone_make_no_message_longer() -> None:
    network = Measured(3, 1)
    replace_gateways(network, 1, 4)
    before = longest_later(network)
    for generation in range(1, 11):
        replace_gateways(network, 1 + 4 * generation, 4)
    assert longest_later(network) < before + 100


def test_a_length_of_leases_that_is_edited_on_one_node_after_another_leaves_no_problem() -> None:
    network = Network(3, 1)
    network.run_until(network.all_agreed, 5 * SECOND)

    seen: list[str] = []

    def refused() -> list[str]:
        texts = [problem for name in ("g1", "g2", "g3") for problem in state(network, name).problems]
        return [text for text in texts if "grants no lease as long" in text]

    for name in ("g1", "g2", "g3", "w1"):
        network.duration_ns = 800 * MILLISECOND
        network.configure(name)
        network.duration_ns = 500 * MILLISECOND
        network.run(2 * SECOND)
        seen += refused()
    network.duration_ns = 800 * MILLISECOND
    assert seen
    network.run_until(network.all_agreed, 10 * SECOND)
    network.run(13 * SECOND)
    assert refused() == []
