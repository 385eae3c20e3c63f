"""Two endpoints that have heard each other."""

from __future__ import annotations

from gateway_agent.lease.messages.bodies import Subscribe, encode
from gateway_agent.lease.messages.keys import (
    Key,
    Keyring,
)
from gateway_agent.lease.messages.wire import Endpoint, Opened
from gateway_agent.lease.voting.voter_set import VoterSet

KEY = Keyring(Key.parse(b"0123456789abcdef\n"))
ADDRESSES = {"a": "10.0.0.1", "b": "10.0.0.2"}
BODY = Subscribe(VoterSet(1, ("a", "b")), None, (("0000000000000001", 3, "a"),))


def endpoint(name: str, incarnation: int, key: Keyring = KEY) -> Endpoint:
    return Endpoint(name, incarnation, key, {n: a for n, a in ADDRESSES.items() if n != name})


def deliver(receiver: Endpoint, datagram: bytes, sender: str = "a", now: int = 0) -> Opened:
    return receiver.open(datagram, ADDRESSES[sender], now)


def talk(one: Endpoint, other: Endpoint, now: int = 0) -> None:
    """Each sends, and all that is replied is delivered, until nobody has anything to say."""
    waiting = [
        (one, other, one.seal(other.name, encode(BODY))),
        (other, one, other.seal(one.name, encode(BODY))),
    ]
    for _ in range(20):
        if not waiting:
            return
        sender, receiver, datagram = waiting.pop(0)
        reply = deliver(receiver, datagram, sender.name, now).reply
        if reply:
            waiting.append((receiver, sender, reply))
    raise AssertionError("they do not stop greeting each other")


def acquainted() -> tuple[Endpoint, Endpoint]:
    a, b = endpoint("a", 11), endpoint("b", 22)
    talk(a, b)
    return a, b
