"""Somebody without the cluster's key who sends datagrams to a lease daemon: none counts, and none ends it."""

from __future__ import annotations

import copy
import random

import msgspec

from gateway_agent.lease.messages.bodies import encode
from gateway_agent.lease.messages.keys import MAC_BYTES, Key, Keyring
from gateway_agent.lease.messages.wire import MAX_DATAGRAM_BYTES, Endpoint
from gateway_agent.lease.voting.protocol import SECOND
from tests.unit.lease.simulation import Machine, Network

from .frames import some
from .wire import bodies, check, encoded, hostile

ROUNDS = 200
"""Datagrams in one scenario."""
TARGETS = ("g1", "g2", "g3")
OTHER = Keyring(Key.parse(b"a key that nobody else has"))


def once(rng: random.Random) -> None:
    """Run one scenario: a cluster that runs, and a machine that has heard all that w1 sent, but not its key."""
    network = Network(egress=3, workers=1, ids=1, seed=rng.getrandbits(32))
    network.run(int(rng.uniform(1.0, 4.0) * SECOND))
    recorded = {name: record(network, name, rng) for name in TARGETS}
    # The same name and the same incarnation, by another key.
    daemon = network.machines["w1"].daemon
    assert daemon is not None
    peers = {name: network.machines[name].address for name in TARGETS}
    forger = Endpoint("w1", daemon.endpoint.incarnation, OTHER, peers)
    # All that makes a message fresh is sent in the clear.
    forger._known, forger._counter = copy.deepcopy(daemon.endpoint._known), 1 << 40
    sources = [*(machine.address for machine in network.machines.values()), "10.9.9.9", "fd00::9"]
    for _ in range(ROUNDS):
        name = rng.choice(TARGETS)
        receive(network, network.machines[name], datagram(name, recorded, forger, rng), rng.choice(sources))
        if rng.random() < 0.1:
            network.run(int(rng.choice([1e6, 1e8])))
    network.run(SECOND)
    check(network)


def record(network: Network, name: str, rng: random.Random) -> list[bytes]:
    """Return genuine datagrams of w1 that ``name`` has received already: whoever listens on the wire has them."""
    sender, machine = network.machines["w1"], network.machines[name]
    assert sender.daemon is not None
    assert machine.daemon is not None
    found = []
    for body in bodies(network.ids, rng)[:2]:
        found.append(sender.daemon.endpoint.seal(name, encode(body)))
        machine.daemon.receive(found[-1], sender.address, machine.clock(network.now))
    return found


def datagram(name: str, recorded: dict[str, list[bytes]], forger: Endpoint, rng: random.Random) -> bytes:
    """Return what somebody without the key can make."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.randbytes(
            rng.choice(
                [0, 1, MAC_BYTES, MAC_BYTES + 1, 100, 1400, MAX_DATAGRAM_BYTES, MAX_DATAGRAM_BYTES + 1]
            )
        )
    if kind == 1:
        return rng.choice(recorded[name])
    if kind == 2:
        # Of another receiver.
        return rng.choice(recorded[rng.choice(TARGETS)])
    if kind == 3:
        genuine = rng.choice(recorded[name])
        return rng.choice([genuine[:MAC_BYTES], rng.randbytes(MAC_BYTES)]) + some(genuine[MAC_BYTES:], rng)
    if kind == 4:
        return some(rng.choice(recorded[name]), rng)
    body = encoded(hostile(rng.choice(bodies(["00" * 8], rng)), rng))
    return forger.seal(name, body or msgspec.Raw(b"\xc0"))


def receive(network: Network, machine: Machine, data: bytes, source: str) -> None:
    """Deliver a datagram: no message of it counts."""
    assert machine.daemon is not None
    before = machine.daemon.endpoint.counters["accepted"]
    machine.daemon.receive(data, source, machine.clock(network.now))
    assert machine.daemon.endpoint.counters["accepted"] == before
