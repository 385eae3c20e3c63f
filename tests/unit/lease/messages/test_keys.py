"""Keys, and the problems that messages with other keys or names are."""

from __future__ import annotations

import msgspec
import pytest

from gateway_agent.lease.messages.bodies import encode
from gateway_agent.lease.messages.keys import (
    CURRENT_NS,
    LASTING_NS,
    LOOKUP_INTERVAL_NS,
    MAC_BYTES,
    Key,
    Keyring,
)
from gateway_agent.lease.messages.wire import Endpoint

from .acquainted_nodes import BODY, KEY, endpoint


def test_a_key_is_not_shown_and_must_be_long_enough() -> None:
    assert "0123456789" not in repr(KEY)
    assert repr(KEY.signing.secret) not in repr(KEY)
    assert Keyring(Key.parse(b"0123456789abcdef")) == KEY, "white space at the end does not count"
    with pytest.raises(ValueError, match="16 or more"):
        Key.parse(b"short \n")


def test_a_machine_that_bears_another_name_is_named_by_its_address() -> None:
    receiver = endpoint("b", 2)
    for begin in (0, LASTING_NS):
        # An edited address reaches the nodes one after another: for a moment nothing is wrong.
        assert not list(receiver.peer_keys.problems("b"))
        for at, sender in enumerate(("b", "c", "a")):
            sealed = Endpoint(sender, 9, KEY, {"b": "10.0.0.2"}).seal("b", encode(BODY))
            receiver.open(sealed, f"10.9.9.{at}", now=begin + at * LOOKUP_INTERVAL_NS)
    address = receiver.peers["a"]
    assert list(receiver.peer_keys.problems("b")) == [
        "the machine at 10.9.9.0 calls itself b, as this node does: two machines have one nodeName",
        "the machine at 10.9.9.1 calls itself c, which is not in the inventory of this node (b)",
        f"the machine at 10.9.9.2 calls itself a, which has the address {address} in the inventory of this node (b)",
    ]
    receiver.peer_keys.keep(
        frozenset(receiver.peers), now=LASTING_NS + 2 * LOOKUP_INTERVAL_NS + CURRENT_NS + 1
    )
    assert not list(receiver.peer_keys.problems("b"))


def test_a_datagram_whose_key_does_not_fit_names_its_key_and_nothing_else_of_it_counts() -> None:
    receiver, other = endpoint("b", 2), Keyring(Key.parse(b"another key, not ours"))
    source = receiver.peers["a"]
    receiver.open(endpoint("a", 1, other).seal("b", encode(BODY)), source, now=0)
    receiver.open(b"x" * 200, source, now=LOOKUP_INTERVAL_NS)
    receiver.open(endpoint("a", 1, other).seal("b", encode(BODY)), "10.9.9.9", now=2 * LOOKUP_INTERVAL_NS)
    message = f"node a at {source} signs with a key that this node (b) does not have"
    foreign = f"the fingerprint of that key is {other.signing.fingerprint}"
    own = f"this node signs with {KEY.signing.fingerprint}"
    assert list(receiver.peer_keys.foreign_keys("b", KEY)) == [f"{message}: {foreign}; {own}"]
    accepting = Keyring(
        KEY.signing, (Key.parse(b"a key of before the rotation"), Key.parse(b"one more of these keys"))
    )
    also = ", ".join(key.fingerprint for key in accepting.accepted)
    assert list(receiver.peer_keys.foreign_keys("b", accepting)) == [
        f"{message}: {foreign}; {own} and accepts {also}"
    ]
    assert receiver.counters["accepted"] == 0


def test_a_key_that_does_not_fit_and_has_no_fingerprint_is_named_beside_ones_own() -> None:
    """Versions before the fingerprint send such messages."""
    receiver, other = endpoint("b", 2), Keyring(Key.parse(b"another key, not ours"))
    sealed = endpoint("a", 1, other).seal("b", encode(BODY))
    message = msgspec.msgpack.encode(msgspec.msgpack.decode(sealed[MAC_BYTES:])[:-2])
    receiver.open(other.signing.mac(message) + message, receiver.peers["a"], now=0)
    [problem] = receiver.peer_keys.foreign_keys("b", KEY)
    own = f"this node signs with {KEY.signing.fingerprint}"
    assert problem.endswith(f" does not have: it names no fingerprint; {own}")


def test_versions_without_a_fingerprint_are_understood_both_ways() -> None:
    """A field at the end of the envelope may be missing, and older versions ignore it.

    The protocol version stays the same.
    """
    sealed = endpoint("a", 1).seal("b", encode(BODY))
    whole = msgspec.msgpack.decode(sealed[MAC_BYTES:])
    for fields in (whole[:-2], whole[:-1], [*whole, "of a later version"]):
        message = msgspec.msgpack.encode(fields)
        receiver = endpoint("b", 2)
        assert receiver.open(KEY.signing.mac(message) + message, receiver.peers["a"], now=0).reply, (
            "it is greeted"
        )
        assert receiver.counters["not_fresh"] == 1
