"""Connections between agents, as bytes: what is authentic passes, everything else is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.lease.messages.keys import Key, Keyring
from gateway_agent.manifest_sets import messages, session
from gateway_agent.manifest_sets.messages import Ask, Fetch, Have, Malformed, Offer, Result
from gateway_agent.manifest_sets.session import LENGTH, Client, Refused, Server

KEY, OTHER = Key.parse(b"k" * 16), Key.parse(b"o" * 16)
ONE, TWO = b"1" * 16, b"2" * 16
Change = Callable[[int, bytes], bytes]


def same(_: int, content: bytes) -> bytes:
    return content


def contents(frames: bytes) -> list[bytes]:
    """Return the contents of frames."""
    found = []
    while frames:
        (length,) = LENGTH.unpack(frames[: LENGTH.size])
        found.append(frames[LENGTH.size :][:length])
        frames = frames[LENGTH.size + length :]
    return found


@dataclass
class Wire:
    """A wire between two ends, whose frames ``change`` may change. ``seen``: the contents of all frames."""

    change: Change = same
    seen: list[bytes] = field(default_factory=list)

    def carry(self, frames: bytes) -> list[bytes]:
        found = []
        for content in contents(frames):
            found.append(self.change(len(self.seen), content))
            self.seen.append(content)
        return found

    def talk(
        self,
        key: Key = KEY,
        ring: Keyring = Keyring(KEY),  # noqa: B008
        names: tuple[str, str, str] = ("w1", "w2", "w2"),
        nonces: tuple[bytes, bytes] = (ONE, TWO),
        request: bytes = b"request",
    ) -> tuple[bytes, bytes]:
        """Return request and answer as they arrive. Raises Refused."""
        me, peer, there = names
        client = Client(key, me, peer, nonces[0])
        [hello] = self.carry(client.hello())
        server = Server(ring, there, hello, nonces[1])
        [challenge] = self.carry(server.challenge())
        proof, sealed = self.carry(client.request(challenge, request))
        server.proven(proof)
        arrived = server.request(sealed)
        [answer] = self.carry(server.answer(b"answer"))
        return arrived, client.answer(answer)


def test_both_ends_get_what_the_other_says() -> None:
    assert Wire().talk() == (b"request", b"answer")


def test_while_a_key_is_rotated_either_key_serves() -> None:
    assert Wire().talk(OTHER, Keyring(KEY, (OTHER,))) == (b"request", b"answer")


def test_another_key_is_refused() -> None:
    with pytest.raises(Refused, match="another key"):
        Wire().talk(OTHER)


def test_who_names_the_key_but_does_not_have_it_is_refused_by_both_ends() -> None:
    class Liar(Key):
        number = KEY.number

    with pytest.raises(Refused, match="not node w2"):
        Wire().talk(Liar(OTHER.secret))
    server = Server(Keyring(KEY), "w2", contents(Client(Liar(OTHER.secret), "w1", "w2", ONE).hello())[0], TWO)
    server.challenge()
    with pytest.raises(Refused, match="has not the key"):
        server.proven(bytes(session.MAC_BYTES))


def test_a_connection_that_leads_to_another_node_is_refused() -> None:
    with pytest.raises(Refused, match="looks for node w2"):
        Wire().talk(names=("w1", "w2", "w3"))


@pytest.mark.parametrize("place", range(5))
def test_no_frame_can_be_changed(place: int) -> None:
    def change(number: int, content: bytes) -> bytes:
        return bytes([*content[:-1], content[-1] ^ 1]) if number == place else content

    with pytest.raises(Refused):
        Wire(change).talk()


@given(st.integers(0, 4), st.data())
def test_no_bit_of_any_frame_can_be_changed(place: int, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, 7))

    def change(number: int, content: bytes) -> bytes:
        if number != place:
            return content
        at = data.draw(st.integers(0, len(content) - 1))
        return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]

    with pytest.raises(Refused):
        Wire(change).talk()


@pytest.mark.parametrize("place", range(1, 5))
def test_nothing_that_was_recorded_is_taken_again(place: int) -> None:
    recorded = Wire()
    recorded.talk()

    def replay(number: int, content: bytes) -> bytes:
        return recorded.seen[number] if number == place else content

    with pytest.raises(Refused):
        Wire(replay).talk(nonces=(b"3" * 16, b"4" * 16))


def test_a_recorded_client_gets_no_further_than_the_challenge() -> None:
    recorded = Wire()
    recorded.talk()
    server = Server(Keyring(KEY), "w2", recorded.seen[0], b"4" * 16)
    server.challenge()
    with pytest.raises(Refused):
        server.proven(recorded.seen[2])


def test_nothing_can_be_sent_back_to_its_sender() -> None:
    with pytest.raises(Refused):
        Wire(lambda number, content: b"request" if number == 4 else content).talk()
    client = Client(KEY, "w1", "w1", ONE)
    server = Server(Keyring(KEY), "w1", contents(client.hello())[0], TWO)
    proof, sealed = contents(client.request(contents(server.challenge())[0], b"x"))
    with pytest.raises(Refused):
        client.answer(sealed)
    assert proof != contents(server.challenge())[0]


def test_the_key_of_connections_is_none_of_the_datagrams() -> None:
    assert session.derived(KEY) not in (KEY.secret, session.derived(OTHER))


@given(st.binary(max_size=100))
def test_any_first_frame_is_a_hello_or_refused(raw: bytes) -> None:
    with pytest.raises(Refused):
        Server(Keyring(KEY), "w2", raw, TWO)


@given(st.binary(max_size=100))
def test_any_body_is_a_message_or_malformed(raw: bytes) -> None:
    for decode in (messages.request, messages.answer):
        try:
            decode(raw)
        except Malformed:
            continue


def test_messages_arrive_as_they_are_sent() -> None:
    for said in (Ask(), Fetch(), Offer(b"x", True)):
        assert messages.request(messages.encoded(said)) == said
    for received in (Have(3, b"d", ("w1",)), messages.Content(b"x"), Result("applied", "why")):
        assert messages.answer(messages.encoded(received)) == received
