"""What is counted, what is believed."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway_agent.lease.messages.bodies import Answer, Hello, Subscribe, encode
from gateway_agent.lease.messages.keys import (
    CURRENT_NS,
    LASTING_NS,
    LOOKUP_INTERVAL_NS,
    MAC_BYTES,
    Key,
    Keyring,
)
from gateway_agent.lease.messages.versions import PROTOCOL
from gateway_agent.lease.messages.wire import HELLO_NS, MAX_DATAGRAM_BYTES, Endpoint, Opened
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


def test_strangers_get_acquainted_and_then_hear_each_other() -> None:
    a, b = acquainted()
    opened = deliver(b, a.seal("b", encode(BODY)))
    assert (opened.sender, opened.incarnation, opened.body, opened.reply) == ("a", 11, BODY, None)
    assert deliver(a, b.seal("a", encode(BODY)), "b").body == BODY


def test_a_first_message_is_not_acted_on() -> None:
    a, b = endpoint("a", 11), endpoint("b", 22)
    opened = deliver(b, a.seal("b", encode(BODY)))
    assert opened.body is None
    assert opened.reply is not None
    assert b.counters["not_fresh"] == 1


def test_greetings_are_limited() -> None:
    a, b = endpoint("a", 11), endpoint("b", 22)
    replies = [deliver(b, a.seal("b", encode(BODY)), now=now).reply for now in (0, 1, HELLO_NS - 1, HELLO_NS)]
    assert [reply is not None for reply in replies] == [True, False, False, True]


def test_replays_and_late_messages_are_counted_and_ignored() -> None:
    a, b = acquainted()
    first, second = a.seal("b", encode(BODY)), a.seal("b", encode(BODY))
    assert deliver(b, second).body == BODY
    for datagram in (first, second, second):
        assert deliver(b, datagram) == Opened()
    assert b.counters["replayed"] == 3


def test_an_answer_may_overtake_the_heartbeat_before_it() -> None:
    a, b = acquainted()
    first, second = (
        a.seal("b", encode(BODY)),
        a.seal("b", encode(Answer(1, VoterSet(1, ("a",)), None, (), ()))),
    )
    assert deliver(b, second).body is not None
    assert deliver(b, first).body == BODY
    assert deliver(b, second) == deliver(b, first) == Opened()


def test_a_message_to_an_earlier_incarnation_is_not_acted_on() -> None:
    a, _ = acquainted()
    recorded = a.seal("b", encode(BODY))
    again = endpoint("b", 33)
    assert deliver(again, recorded).body is None
    talk(a, again, now=HELLO_NS)
    assert deliver(again, recorded).body is None
    assert deliver(again, a.seal("b", encode(BODY))).body == BODY


def test_a_restarted_sender_is_believed_and_the_old_one_no_more() -> None:
    a, b = acquainted()
    recorded = a.seal("b", encode(BODY))
    again = endpoint("a", 44)
    talk(again, b)
    assert deliver(b, again.seal("b", encode(BODY))).incarnation == 44
    assert deliver(b, recorded) == Opened()
    assert b.counters["replayed"] == 1


def test_an_incarnation_that_was_never_heard_cannot_come_back_from_the_past() -> None:
    """The old process had learned who we are, but all its messages were delayed until after its restart."""
    b = endpoint("b", 22)
    old = endpoint("a", 11)
    hello = deliver(b, old.seal("b", encode(BODY))).reply
    assert hello is not None
    deliver(old, hello, "b")
    delayed = old.seal("b", encode(BODY))
    again = endpoint("a", 44)
    talk(again, b, now=HELLO_NS)
    assert deliver(b, delayed, now=2 * HELLO_NS).body is None
    assert deliver(b, again.seal("b", encode(BODY))).body == BODY


@pytest.mark.parametrize(
    ("spoil", "counter"),
    [
        (lambda d: d[:10], "truncated"),
        (lambda d: b"", "truncated"),
        (lambda d: d[:-1], "bad_mac"),
        (lambda d: d + b"\0", "bad_mac"),
        (lambda d: bytes([d[0] ^ 1]) + d[1:], "bad_mac"),
        (lambda d: d[:-1] + bytes([d[-1] ^ 1]), "bad_mac"),
        (lambda d: KEY.signing.mac(b"\x93\x01") + b"\x93\x01", "malformed"),
        (
            lambda d: endpoint("a", 1, Keyring(Key.parse(b"another key, not ours"))).seal("b", encode(BODY)),
            "bad_mac",
        ),
        (lambda d: Endpoint("c", 1, KEY, ADDRESSES).seal("b", encode(BODY)), "unknown_sender"),
        (lambda d: Endpoint("b", 1, KEY, ADDRESSES).seal("b", encode(BODY)), "unknown_sender"),
    ],
)
def test_what_is_wrong_is_counted_by_its_kind(spoil: object, counter: str) -> None:
    assert callable(spoil)
    a, b = acquainted()
    before = dict(b.counters)
    assert deliver(b, spoil(a.seal("b", encode(BODY)))) == Opened()
    assert {name: n - before[name] for name, n in b.counters.items() if n != before[name]} == {counter: 1}


class CountingKeyring(Keyring):
    """Counts the keyed hashes."""

    hashes = 0

    def verify(self, message: bytes | memoryview, mac: bytes) -> Key | None:
        CountingKeyring.hashes += 1
        return super().verify(message, mac)


@pytest.mark.parametrize(
    ("datagram", "counter"),
    [
        (bytes(16), "truncated"),
        (bytes(200), "malformed"),
        (b"x" * 60_000, "malformed"),
        (bytes(16) + b"\x98" * (MAX_DATAGRAM_BYTES - 15), "malformed"),
        (bytes(16) + b"\x98" * 200, "unknown_address"),
    ],
    ids=["short", "no envelope", "long, no envelope", "too long", "from nowhere"],
)
def test_what_cannot_be_a_message_costs_no_keyed_hash(datagram: bytes, counter: str) -> None:
    b = Endpoint("b", 22, CountingKeyring(KEY.signing), {"a": ADDRESSES["a"]})
    # The first one from an address of no node is looked at, so that a node with a wrong address can be named.
    b.open(bytes(16) + b"\x98", "10.9.9.9", 0)
    CountingKeyring.hashes = 0
    for _ in range(3):
        assert b.open(datagram, "10.9.9.9", LOOKUP_INTERVAL_NS - 1) == Opened()
    assert (b.counters[counter], CountingKeyring.hashes) == (3, 0)


def test_the_source_must_be_the_senders_address() -> None:
    a, b = acquainted()
    assert b.open(a.seal("b", encode(BODY)), "10.0.0.9", 0) == Opened()
    assert b.counters["wrong_address"] == 1


@example(b"\x97\xa4\x00\x00\x00\x80", True).via("a name that is no UTF-8")
@given(st.binary(max_size=200), st.booleans())
def test_nothing_that_comes_in_is_an_exception(noise: bytes, signed: bool) -> None:
    _, b = acquainted()
    accepted = b.counters["accepted"]
    assert deliver(b, KEY.signing.mac(noise) + noise if signed else noise).body is None
    assert b.counters["accepted"] == accepted


@given(st.permutations(range(6)), st.sets(st.integers(0, 5)))
def test_however_messages_are_shuffled_and_doubled_each_counts_once_at_most(
    order: list[int], doubled: set[int]
) -> None:
    a, b = acquainted()
    sent = [a.seal("b", encode(Hello())) for _ in range(6)]
    arriving = list(itertools.chain.from_iterable([n, n] if n in doubled else [n] for n in order))
    heard = [n for n in arriving if deliver(b, sent[n]).body is not None]
    assert heard == sorted(set(heard))
    assert heard[-1] == 5


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
        assert not list(receiver.heard.problems("b", KEY))
        for at, sender in enumerate(("b", "c", "a")):
            sealed = Endpoint(sender, 9, KEY, {"b": "10.0.0.2"}).seal("b", encode(BODY))
            receiver.open(sealed, f"10.9.9.{at}", now=begin + at * LOOKUP_INTERVAL_NS)
    address = receiver.peers["a"]
    assert list(receiver.heard.problems("b", KEY)) == [
        "the machine at 10.9.9.0 calls itself b, as this node does: two machines have one nodeName",
        "the machine at 10.9.9.1 calls itself c, which is not in the inventory of this node (b)",
        f"the machine at 10.9.9.2 calls itself a, which has the address {address} in the inventory of this node (b)",
    ]
    receiver.heard.keep(frozenset(receiver.peers), now=LASTING_NS + 2 * LOOKUP_INTERVAL_NS + CURRENT_NS + 1)
    assert not list(receiver.heard.problems("b", KEY))


def test_a_datagram_whose_key_does_not_fit_names_its_key_and_nothing_else_of_it_counts() -> None:
    receiver, other = endpoint("b", 2), Keyring(Key.parse(b"another key, not ours"))
    source = receiver.peers["a"]
    receiver.open(endpoint("a", 1, other).seal("b", encode(BODY)), source, now=0)
    receiver.open(b"x" * 200, source, now=LOOKUP_INTERVAL_NS)
    receiver.open(endpoint("a", 1, other).seal("b", encode(BODY)), "10.9.9.9", now=2 * LOOKUP_INTERVAL_NS)
    words = f"node a at {source} signs with a key that this node (b) does not have"
    foreign = f"the fingerprint of that key is {other.signing.fingerprint}"
    own = f"this node signs with {KEY.signing.fingerprint}"
    assert list(receiver.heard.problems("b", KEY)) == [f"{words}: {foreign}; {own}"]
    accepting = Keyring(
        KEY.signing, (Key.parse(b"a key of before the rotation"), Key.parse(b"one more of these keys"))
    )
    also = ", ".join(key.fingerprint for key in accepting.accepted)
    assert list(receiver.heard.problems("b", accepting)) == [f"{words}: {foreign}; {own} and accepts {also}"]
    assert receiver.counters["accepted"] == 0


def test_a_key_that_does_not_fit_and_has_no_fingerprint_is_named_beside_ones_own() -> None:
    """Versions before the fingerprint send such messages."""
    receiver, other = endpoint("b", 2), Keyring(Key.parse(b"another key, not ours"))
    sealed = endpoint("a", 1, other).seal("b", encode(BODY))
    message = msgspec.msgpack.encode(msgspec.msgpack.decode(sealed[MAC_BYTES:])[:-2])
    receiver.open(other.signing.mac(message) + message, receiver.peers["a"], now=0)
    [problem] = receiver.heard.problems("b", KEY)
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


def other_version(sealed: bytes, version: int, **changed: object) -> bytes:
    """Return a datagram as a node with another version of the protocol sends it: with fields and bodies of its own."""
    names = ("sender", *"icsrt", "body", "key", "version")
    fields = dict(zip(names, msgspec.msgpack.decode(sealed[MAC_BYTES:]), strict=True))
    fields.update(changed, version=version)
    message = msgspec.msgpack.encode(list(fields.values()))
    return KEY.signing.mac(message) + message


@pytest.mark.parametrize("body", [["o"], ["of another kind", 1, {}]], ids=["known", "unknown"])
@pytest.mark.parametrize("version", [PROTOCOL + 1, 65535])
def test_another_version_of_the_protocol_is_named_with_both_and_nothing_of_it_counts(
    version: int, body: list[object]
) -> None:
    a, b = acquainted()
    accepted = b.counters["accepted"]
    datagram = other_version(a.seal("b", encode(BODY)), version, body=body)
    assert deliver(b, datagram) == Opened()
    assert (b.counters["other_version"], b.counters["accepted"]) == (1, accepted)
    words = (
        f"node a at 10.0.0.1 speaks version {version} of the protocol and this node (b) version {PROTOCOL}"
    )
    assert [words in problem for problem in b.heard.problems("b", KEY)] == [True]


def test_a_version_with_another_keyed_hash_is_named_too() -> None:
    """Then nothing of the message is proven, and nothing follows from it but a text."""
    a, b = acquainted()
    datagram = b"?" * MAC_BYTES + other_version(a.seal("b", encode(BODY)), PROTOCOL + 1)[MAC_BYTES:]
    deliver(b, datagram)
    assert [f"version {PROTOCOL + 1} " in problem for problem in b.heard.problems("b", KEY)] == [True]
    assert b.counters["bad_mac"] == 1


def test_what_a_known_node_signs_and_nobody_can_read_is_named() -> None:
    _, b = acquainted()
    deliver(b, KEY.signing.mac(b"\x93\x01") + b"\x93\x01")
    [problem] = b.heard.problems("b", KEY)
    assert f"node a at 10.0.0.1 sends messages that are not of version {PROTOCOL}" in problem


def test_a_version_is_told_from_the_addresses_of_known_nodes_only_and_is_gone_with_its_messages() -> None:
    a, b = acquainted()
    datagram = other_version(a.seal("b", encode(BODY)), PROTOCOL + 1)
    b.open(datagram, "10.9.9.9", 0)
    assert not list(b.heard.problems("b", KEY))
    for end in ("genuine", "old", "gone"):
        deliver(b, datagram, now=LOOKUP_INTERVAL_NS)
        before = b.heard.revision
        assert list(b.heard.problems("b", KEY))
        if end == "genuine":
            assert deliver(b, a.seal("b", encode(BODY)), now=LOOKUP_INTERVAL_NS).body == BODY
        else:
            late = LOOKUP_INTERVAL_NS + CURRENT_NS + 1
            b.heard.keep(
                frozenset() if end == "gone" else frozenset("a"),
                now=LOOKUP_INTERVAL_NS if end == "gone" else late,
            )
        assert not list(b.heard.problems("b", KEY)), end
        assert b.heard.revision > before
        b.heard._lookup_after = 0
