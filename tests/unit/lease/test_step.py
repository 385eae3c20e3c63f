"""Egress nodes send their heartbeats in the same moment, in virtual time."""

from __future__ import annotations

import itertools

import pytest

from gateway_agent.lease.messages.bodies import Heartbeat
from gateway_agent.lease.messages.envelope import DECODER
from gateway_agent.lease.messages.keys import MAC_BYTES
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND

from .simulation import Network
from .small_cluster import DURATION, HEARTBEAT

SETTLED = 3 * SECOND


class Requests(Network):
    """Remembers when each node has sent a request."""

    def __init__(self, seed: int, egress: int = 3) -> None:
        self.requests: dict[str, list[int]] = {}
        super().__init__(egress, 1, seed=seed, heartbeat_ns=HEARTBEAT, duration_ns=DURATION)
        self.max_delay_ns = MILLISECOND

    def _push(self, at: int, name: str, message: tuple[bytes, str] | None, wake_at: int) -> None:
        super()._push(at, name, message, wake_at)
        if message is not None:
            envelope = DECODER.decode(message[0][MAC_BYTES:])
            if isinstance(envelope.body, Heartbeat) and envelope.body.seq:
                sent = self.requests.setdefault(envelope.sender, [])
                if sent[-1:] != [self.now]:
                    sent.append(self.now)

    def run_settled(self, duration_ns: int) -> None:
        """Run, and remember the requests of this time alone."""
        self.requests.clear()
        self.run(duration_ns)


def gaps(moments: list[int]) -> list[int]:
    return [after - before for before, after in itertools.pairwise(moments)]


@pytest.mark.parametrize("seed", range(3))
def test_heartbeats_of_egress_nodes_go_together(seed: int) -> None:
    """Whatever the clocks' rates and the moments of the starts are."""
    network = Requests(seed)
    for number, name in enumerate(("g2", "g3"), 1):
        network.crash(name)
        network.run(number * HEARTBEAT // 3)
        network.start(name)
    network.run(SETTLED)
    network.run_settled(SECOND)
    first, *others = (network.requests[name] for name in ("g1", "g2", "g3"))
    for moments in others:
        assert all(min(abs(at - led) for led in first) <= MILLISECOND for at in moments[1:-1])
        assert len(moments) <= SECOND // HEARTBEAT + 2


@pytest.mark.parametrize("seed", range(3))
def test_heartbeats_come_in_time_while_nodes_fall_into_step(seed: int) -> None:
    network = Requests(seed)
    network.run_until(network.all_agreed, SETTLED)
    network.crash("g1")
    network.run(SECOND)
    network.requests.clear()
    network.start("g1")
    network.run(3 * SECOND)
    # By the true time, of which the clocks of the nodes differ by a hundredth.
    longest = HEARTBEAT * 9 // 8 * 102 // 100
    assert max(gaps(network.requests["g2"]) + gaps(network.requests["g3"])) <= longest


@pytest.mark.parametrize("seed", range(3))
def test_the_next_node_leads_if_the_first_one_is_gone(seed: int) -> None:
    network = Requests(seed, egress=4)
    network.run_until(network.all_agreed, SETTLED)
    network.crash("g1")
    network.run(2 * SECOND)
    network.set_rate("g2", 1.01)
    network.set_rate("g3", 0.99)
    network.run_settled(2 * SECOND)
    first, *others = (network.requests[name] for name in ("g2", "g3", "g4"))
    for moments in others:
        assert all(min(abs(at - led) for led in first) <= MILLISECOND for at in moments[1:-1])
