"""A holder of the cluster's key who sends whatever it likes to lease daemons: none ends, none grows without end."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import msgspec

from gateway_agent.lease.ipc import Facts, KeeperState, Tunnel
from gateway_agent.lease.messages.bodies import (
    Answer,
    Body,
    Handover,
    Heartbeat,
    Hello,
    Holding,
    MasterAnnouncement,
    Subscribe,
)
from gateway_agent.lease.messages.keys import MAC_BYTES, Key
from gateway_agent.lease.status import report
from gateway_agent.lease.voting.protocol import SECOND, Claim, Refusal, Release
from gateway_agent.lease.voting.voter_set import PROPOSER_LEASE, Proposal, VoterSet
from tests.unit.lease.simulation import Network

from .values import HOSTILE, places, put

ALTERED_SHARE = 0.2
"""Share of the messages with another envelope."""
ROUNDS = 40
"""Messages in one scenario."""
NUMBERS: tuple[Any, ...] = (-(2**63), -1, 0, 1, 2**31, 2**32, 2**48, 2**62, 2**62 + 1, 2**63 - 1, 2**63,
                            2**64 - 1, 1e308, float("nan"), float("inf"), "x" * 5000, "", "\0", None, [],
                            ["g1"] * 5000)  # fmt: skip
SMALL = tuple(value for value in HOSTILE if not isinstance(value, (set, tuple)) and value != "\ud800"
              and not (isinstance(value, int) and abs(value) >= 2**64) and value != {None: None})  # fmt: skip


def bodies(ids: Iterable[str], rng: random.Random) -> list[Body]:
    """Return a message of each kind that fits the state of a network with these egress IPs."""
    identity = rng.choice([*ids, PROPOSER_LEASE, "f" * 16])
    node = rng.choice(["g1", "g2", "g3", "w1", "nobody"])
    voters, epoch = VoterSet(rng.choice([0, 1, 2, 3]), ("g1", "g2", "g3")), rng.choice([1, 2, 50])
    proposal = rng.choice([None, Proposal(VoterSet(2, ("g1", "g2", "w1")), epoch, node)])
    seq = rng.choice([0, 1, 10, 100])
    announcement = MasterAnnouncement(identity, epoch, 1.0, False, "", 1, "172.16.0.1", rng.random() < 0.3)
    tunnels = (Tunnel(identity, rng.choice([1, 7]), rng.random() < 0.5),)
    facts = rng.choice(
        [None, Facts(rng.choice([4799, 4800]), SECOND // 2, rng.random() < 0.5, "", (7, 8), 1e9, tunnels)]
    )
    return [
        Hello(),
        Subscribe(voters, proposal, ((identity, epoch, node),), facts, rng.choice([None, (), (identity,)])),
        Heartbeat(
            seq, SECOND // 2, voters, proposal, ("g1", "g2", "g3"), (Claim(identity, epoch),),
            (Release(identity, epoch, node, 7, "stop", node),), False, "", {identity: "x"}, (announcement,), proposal,
            (identity,), (identity,), facts,
        ),
        Answer(seq, voters, proposal, (identity, PROPOSER_LEASE), (Refusal(identity, "held", node, epoch, 1000),)),
        Holding((identity,)),
        Handover(identity, node),
    ]  # fmt: skip


def hostile(body: Body, rng: random.Random) -> Any:
    """Return a message as plain values, with up to three of them replaced."""
    value: Any = msgspec.to_builtins(body)
    for _ in range(rng.randint(0, 3)):
        at = rng.choice([path for path in places(value) if path])
        value = put(value, at, rng.choice(NUMBERS if rng.random() < 0.8 else SMALL))
    return value


def once(rng: random.Random) -> None:
    """Run one scenario: a cluster that runs, and a worker with the key that sends to all of it."""
    network = Network(egress=3, workers=1, ids=2, seed=rng.getrandbits(32))
    # Whoever has the key can claim what others hold: that is not what is looked at here.
    network.exclusive = False
    network.run(int(rng.uniform(0.0, 8.0) * SECOND))
    for _ in range(ROUNDS):
        send(network, rng.choice(["g1", "g2", "g3"]), hostile(rng.choice(bodies(network.ids, rng)), rng), rng)
        network.run(int(rng.choice([0, 1e6, 2e8])))
    network.run(SECOND)
    check(network)


def send(network: Network, target: str, body: Any, rng: random.Random | None = None) -> None:
    """Deliver a message of any content to ``target``, authentic and fresh, as the daemon of w1 would send it.

    With ``rng`` some come from another egress node, and some are altered after they were sealed.
    """
    source = (
        "w1" if rng is None else rng.choice([name for name in ("w1", "g1", "g2", "g3") if name != target])
    )
    attacker, victim = network.machines[source].daemon, network.machines[target].daemon
    assert attacker is not None
    assert victim is not None
    raw = encoded(body)
    if raw is None:
        return
    datagram = attacker.endpoint.seal(target, raw)
    if rng is not None and rng.random() < ALTERED_SHARE:
        datagram = altered(datagram, attacker.endpoint.keys.signing, rng)
    effects = victim.receive(
        datagram, network.machines[source].address, network.machines[target].clock(network.now)
    )
    network._carry_out(network.machines[target], effects)


def altered(datagram: bytes, key: Key, rng: random.Random) -> bytes:
    """Return a datagram with another envelope: a field of any value, or another number of fields."""
    fields = msgspec.msgpack.decode(datagram[MAC_BYTES:])
    fields[rng.randrange(len(fields))] = rng.choice([2, *NUMBERS])
    message = msgspec.msgpack.encode(fields[: rng.randint(6, len(fields))] + [0] * rng.randint(0, 2))
    return key.mac(message) + message


def encoded(body: Any) -> msgspec.Raw | None:
    """Return a message of any content as it is sent; None if MessagePack cannot hold it."""
    try:
        return msgspec.Raw(msgspec.msgpack.encode(body))
    except (OverflowError, UnicodeError):
        return None


def check(network: Network) -> None:
    """Every daemon runs, what it says can be read, and it remembers no more than it should."""
    for machine in network.machines.values():
        daemon = machine.daemon
        assert daemon is not None
        state = report(daemon, machine.clock(network.now))
        assert msgspec.json.decode(msgspec.json.encode(state), type=KeeperState) == state
        assert daemon.next_wake() < 1 << 63
