"""What is counted, what is believed."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway_agent.lease.messages.bodies import Answer, Hello, encode
from gateway_agent.lease.messages.keys import (
    LOOKUP_INTERVAL_NS,
    Key,
    Keyring,
)
from gateway_agent.lease.messages.wire import HELLO_NS, MAX_DATAGRAM_BYTES, Endpoint, Opened
from gateway_agent.lease.voting.voter_set import VoterSet

from .acquainted_nodes import ADDRESSES, BODY, KEY, acquainted, deliver, endpoint, talk


def test_strangers_exchange_hellos_and_then_receive_from_each_other() -> None:
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


def test_an_incarnation_that_was_never_received_cannot_come_back_from_the_past() -> None:
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
    received = [n for n in arriving if deliver(b, sent[n]).body is not None]
    assert received == sorted(set(received))
    assert received[-1] == 5
