"""A datagram whose handling raises, at whatever line: the daemon goes on, and there are never two masters.

What the daemon had decided by then is half done. Each half must be safe by itself, and what others rely on (a closed
fence, a remembered grant) comes before anything that is sent.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from gateway_agent.lease.effects import Effect
from gateway_agent.lease.messages.bodies import Answer, Body, Heartbeat, Holding, encode
from gateway_agent.lease.messages.envelope import DECODER
from gateway_agent.lease.messages.keys import MAC_BYTES
from gateway_agent.lease.messages.outbox import Send
from gateway_agent.lease.node import LeaseNode
from gateway_agent.lease.node_state import Remember
from gateway_agent.lease.virtual_ips.serving import Close
from gateway_agent.lease.voting.protocol import MILLISECOND, SECOND

from .simulation import Network
from .small_cluster import DURATION, HEARTBEAT, cluster, master

CORE = "gateway_agent/lease/"
MOST_LINES = 1500
"""Number of lines that exceeds the handling of most datagrams in this simulation."""


class Fault(Exception):
    """What a fault of the program raises."""


def raising(line: int) -> Callable[[FrameType, str, Any], Any]:
    """Return a trace function that raises in front of the given one of the core's lines, counted from now on."""
    left = line

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if CORE not in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if left < 0:
                raise Fault
        return trace

    return trace


def receive(daemon: LeaseNode, datagram: tuple[bytes, str], now: int, line: int) -> list[Effect] | None:
    """Let the daemon handle a datagram with a fault in front of a line. None: the fault came."""
    # A measure of covered lines may be tracing.
    before = sys.gettrace()
    sys.settrace(raising(line))
    try:
        return daemon.receive(*datagram, now)
    except Fault:
        return None
    finally:
        sys.settrace(before)


def faults(daemon: LeaseNode, datagram: tuple[bytes, str], now: int) -> list[list[Effect]]:
    """For a fault in front of each line of the handling of one datagram: all effects until a moment later.

    Not the last line: it hands the effects out, and does nothing else.
    """
    runs: list[list[Effect]] = []
    while (effects := receive(faulty := copy.deepcopy(daemon), datagram, now, len(runs))) is None:
        runs.append([*faulty.wake(now + MILLISECOND), *faulty.wake(now + 60 * MILLISECOND)])
    assert effects
    assert len(runs) > 100
    return runs[:-1]


def body(effect: Effect) -> Body | None:
    """Return the message that is sent, if any."""
    return DECODER.decode(effect.data[MAC_BYTES:]).body if isinstance(effect, Send) else None


def datagram(network: Network, sender: str, receiver: str, message: Body) -> tuple[bytes, str]:
    daemon = network.machines[sender].daemon
    assert daemon is not None
    return daemon.endpoint.seal(receiver, encode(message)), network.machines[sender].address


def test_a_release_is_never_sent_before_the_fence_is_closed() -> None:
    network = cluster()
    old = master(network)
    network.drain(old)
    daemon = network.machines[old].daemon
    assert daemon is not None
    handovers = daemon.ownership._handovers
    network.run_until(
        lambda: handovers.next_wake() < network.machines[old].clock(network.now) + SECOND // 2, SECOND
    )
    # All hold, and the daemon is late to go on: the next datagram comes first.
    late = handovers.next_wake() + MILLISECOND
    sent = datagram(network, "w1", old, Holding(tuple(network.ids)))
    released = 0
    for effects in faults(daemon, sent, late):
        closed = False
        for effect in effects:
            closed = closed or isinstance(effect, Close)
            message = body(effect)
            if isinstance(message, Heartbeat) and any(r.id in network.ids for r in message.releases):
                released += 1
                assert closed, effects
    assert released


def test_a_grant_is_never_answered_before_it_is_remembered() -> None:
    network = cluster()
    old = master(network)
    machine = network.machines["g1" if old != "g1" else "g2"]
    voter, asking = machine.daemon, network.machines[old].daemon
    assert voter is not None
    assert asking is not None
    said = map(body, asking.wake(asking.next_wake() + HEARTBEAT))
    heartbeat = next(message for message in said if isinstance(message, Heartbeat) and message.claims)
    granted = 0
    for effects in faults(voter, datagram(network, old, machine.name, heartbeat), machine.clock(network.now)):
        remembered = False
        for effect in effects:
            remembered = remembered or isinstance(effect, Remember)
            message = body(effect)
            if isinstance(message, Answer) and message.granted:
                granted += 1
                assert remembered, effects
    assert granted


class Faulty(Network):
    """A network in which the handling of some datagrams raises in the middle, and the process goes on."""

    def __init__(self, share: float, **options: Any) -> None:
        """``share``: of the datagrams."""
        self.share = share
        self.faults = 0
        self.chance = random.Random(options["seed"])
        super().__init__(**options)

    def receive(self, daemon: LeaseNode, data: bytes, source: str, clock: int) -> list[Effect]:
        if self.chance.random() >= self.share:
            return super().receive(daemon, data, source, clock)
        effects = receive(daemon, (data, source), clock, self.chance.randrange(MOST_LINES))
        self.faults += effects is None
        return effects or []


def disturb(network: Network, rng: random.Random) -> None:
    """Do something that makes addresses move, or a voter forget what it did not store."""
    name, identity = rng.choice(["g1", "g2", "g3"]), rng.choice(network.ids)
    what = rng.choice(["drain", "restart", "isolate", "unready", "move"])
    if what == "drain":
        network.drain(name)
    elif what == "restart":
        network.crash(name)
    elif what == "isolate":
        network.isolate(name)
    elif what == "unready":
        network.set_ready(name, identity, False)
    else:
        network.move("w1", identity, name)
    network.run(rng.randrange(600) * MILLISECOND)
    network.heal()
    network.drain(name, False)
    network.start(name)
    network.set_ready(name, identity, True)
    network.run(rng.randrange(700) * MILLISECOND)


@pytest.mark.parametrize("seed", range(4))
def test_faults_in_the_middle_of_datagrams_make_no_second_master(seed: int) -> None:
    rng = random.Random(seed)
    network = Faulty(
        0.15, egress=3, workers=1, ids=2, seed=seed, heartbeat_ns=HEARTBEAT, duration_ns=DURATION
    )
    for _ in range(15):
        disturb(network, rng)
    assert network.faults > 50
    network.share = 0.0
    network.run_until(network.all_agreed, 20 * SECOND)
