"""Nodes with another version of the protocol."""

from __future__ import annotations

import msgspec
import pytest

from gateway_agent.lease.messages.bodies import encode
from gateway_agent.lease.messages.keys import (
    CURRENT_NS,
    LOOKUP_INTERVAL_NS,
    MAC_BYTES,
)
from gateway_agent.lease.messages.versions import PROTOCOL
from gateway_agent.lease.messages.wire import Opened

from .acquainted_nodes import BODY, KEY, acquainted, deliver


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
    message = (
        f"node a at 10.0.0.1 speaks version {version} of the protocol and this node (b) version {PROTOCOL}"
    )
    assert [message in problem for problem in b.peer_keys.problems("b")] == [True]


def test_a_version_with_another_keyed_hash_is_named_too() -> None:
    """Then nothing of the message is proven, and nothing follows from it but a text."""
    a, b = acquainted()
    datagram = b"?" * MAC_BYTES + other_version(a.seal("b", encode(BODY)), PROTOCOL + 1)[MAC_BYTES:]
    deliver(b, datagram)
    assert [f"version {PROTOCOL + 1} " in problem for problem in b.peer_keys.problems("b")] == [True]
    assert b.counters["bad_mac"] == 1


def test_an_unreadable_message_of_a_known_node_is_named() -> None:
    _, b = acquainted()
    deliver(b, KEY.signing.mac(b"\x93\x01") + b"\x93\x01")
    [problem] = b.peer_keys.problems("b")
    assert f"node a at 10.0.0.1 sends messages that are not of version {PROTOCOL}" in problem


def test_a_version_is_reported_for_the_addresses_of_known_nodes_only_and_is_gone_with_its_messages() -> None:
    a, b = acquainted()
    datagram = other_version(a.seal("b", encode(BODY)), PROTOCOL + 1)
    b.open(datagram, "10.9.9.9", 0)
    assert not list(b.peer_keys.problems("b"))
    for end in ("genuine", "old", "gone"):
        deliver(b, datagram, now=LOOKUP_INTERVAL_NS)
        before = b.peer_keys.revision
        assert list(b.peer_keys.problems("b"))
        if end == "genuine":
            assert deliver(b, a.seal("b", encode(BODY)), now=LOOKUP_INTERVAL_NS).body == BODY
        else:
            late = LOOKUP_INTERVAL_NS + CURRENT_NS + 1
            b.peer_keys.keep(
                frozenset() if end == "gone" else frozenset("a"),
                now=LOOKUP_INTERVAL_NS if end == "gone" else late,
            )
        assert not list(b.peer_keys.problems("b")), end
        assert b.peer_keys.revision > before
        b.peer_keys._lookup_after = 0
