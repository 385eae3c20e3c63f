"""A cluster of few nodes in virtual time that has agreed on its master, for tests of single failures."""

from __future__ import annotations

from gateway_agent.lease.ipc import KeeperState
from gateway_agent.lease.status import report
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND

from .simulated_kernel import QUEUEING
from .simulation import Network

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
