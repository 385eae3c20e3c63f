"""Gateways that come and go for as long as a lease daemon runs."""

from __future__ import annotations

from gateway_agent.lease.effects import Effect
from gateway_agent.lease.node import LeaseNode
from gateway_agent.lease.voting.protocol import SECOND

from .simulation import Network


class Measured(Network):
    """Knows the longest datagram that has arrived since it was last asked."""

    longest = 0

    def receive(self, daemon: LeaseNode, data: bytes, source: str, clock: int) -> list[Effect]:
        self.longest = max(self.longest, len(data))
        return super().receive(daemon, data, source, clock)


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
