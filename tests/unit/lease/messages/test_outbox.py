from __future__ import annotations

from gateway_agent.lease.messages.outbox import Outbox, Send

from .acquainted_nodes import ADDRESSES, BODY, acquainted, deliver


def test_peers_alone_get_a_message_and_all_the_same_one() -> None:
    a, b = acquainted()
    outbox = Outbox(a)
    outbox.put(("a", "b", "nobody"), BODY)
    [sent] = outbox.take()
    assert sent.address == ADDRESSES["b"]
    assert deliver(b, sent.data).body == BODY


def test_datagrams_are_taken_once_and_in_their_order() -> None:
    a, _ = acquainted()
    outbox = Outbox(a)
    outbox.reply("10.9.9.9", b"first")
    outbox.put(("b",), BODY)
    outbox.reply("10.9.9.9", b"last")
    first, middle, last = outbox.take()
    assert (first, last) == (Send("10.9.9.9", b"first"), Send("10.9.9.9", b"last"))
    assert middle.address == ADDRESSES["b"]
    assert outbox.take() == []
