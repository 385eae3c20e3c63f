"""Connections between agents, by real sockets: who is not known, slow or too much is cut off, and others are served."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import pytest

from gateway_agent.adapters.servers import set_channel
from gateway_agent.adapters.servers.set_channel import SetChannel
from gateway_agent.lease.messages.keys import Key, Keyring
from gateway_agent.manifest_sets import session
from gateway_agent.manifest_sets.messages import (
    MAX_BODY_BYTES,
    Answer,
    Ask,
    Have,
    Look,
    Offer,
    Request,
    Result,
)
from gateway_agent.manifest_sets.session import Client, Refused

from ....lab.free_port import free_port

RING, OTHER = Keyring(Key.parse(b"k" * 16)), Keyring(Key.parse(b"o" * 16))
HERE, THERE, UNKNOWN = "127.0.0.1", "127.0.0.2", "127.0.0.3"
PEERS = {THERE: "w1"}


class Served:
    """The node w2, which serves, and the requests that have come to it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.channel = SetChannel("w2", port, lambda: RING)
        self.asked: list[tuple[str, Request]] = []
        self.detail = ""

    async def answer(self, peer: str, request: Request) -> Answer:
        self.asked.append((peer, request))
        return Have(3, b"d") if isinstance(request, Ask) else Result("applied", self.detail)

    async def ask(
        self,
        request: Request = Ask(),  # noqa: B008
        ring: Keyring = RING,
        me: str = "w1",
        node: str = "w2",
        source: str = THERE,
    ) -> Answer:
        """Return the answer to the node w1, or to another one."""
        return await SetChannel(me, self.port, lambda: ring).call(node, HERE, source, request)

    async def connect(self, source: str = THERE) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(HERE, self.port, local_addr=(source, 0))


@contextlib.asynccontextmanager
async def serving(peers: Mapping[str, str] = PEERS) -> AsyncIterator[Served]:
    """Yield a node that serves."""
    served = Served(free_port())
    task = asyncio.create_task(served.channel.serve(lambda: peers, served.answer))
    try:
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                _, writer = await served.connect(UNKNOWN)
                writer.close()
                break
            await asyncio.sleep(0)
        yield served
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def run(scenario: Callable[[Served], Awaitable[None]]) -> Served:
    """Run a scenario with a node that serves."""

    async def go() -> Served:
        async with serving() as served:
            await scenario(served)
        return served

    return asyncio.run(go())


async def ended(reader: asyncio.StreamReader) -> bool:
    """Return True when the other end has ended the connection."""
    try:
        return await reader.read(1) == b""
    except ConnectionResetError:
        return True


def test_a_question_of_a_node_is_answered() -> None:
    async def scenario(served: Served) -> None:
        assert await served.ask() == Have(3, b"d")
        large = Offer(bytes(MAX_BODY_BYTES - 100))
        assert await served.ask(large) == Result("applied")
        assert served.asked == [("w1", Ask()), ("w1", large)]

    run(scenario)


@pytest.mark.parametrize(
    ("me", "node", "source"),
    [("w1", "w2", UNKNOWN), ("w9", "w2", THERE), ("w1", "w3", THERE)],
    ids=["an unknown address", "another name than the address has", "a question to another node"],
)
def test_others_are_cut_off(me: str, node: str, source: str) -> None:
    async def scenario(served: Served) -> None:
        with pytest.raises(Refused, match="closed the connection"):
            await served.ask(me=me, node=node, source=source)
        assert not served.asked
        assert await served.ask() == Have(3, b"d")

    run(scenario)


def test_a_node_with_another_key_is_cut_off_and_gets_possible_reasons() -> None:
    async def scenario(served: Served) -> None:
        with pytest.raises(Refused, match="another key"):
            await served.ask(ring=OTHER)
        assert not served.asked

    run(scenario)


def test_a_node_that_says_nothing_is_cut_off_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_channel, "HANDSHAKE_TIMEOUT_S", 0.2)

    async def scenario(served: Served) -> None:
        silent = [await served.connect() for _ in range(set_channel.MAX_CONNECTIONS_PER_PEER)]
        more, _ = await served.connect()
        assert await ended(more), "an address has few connections"
        for reader, _ in silent:
            assert await ended(reader)
        assert await served.ask() == Have(3, b"d")

    assert run(scenario).channel.rejected["broken_off"] == set_channel.MAX_CONNECTIONS_PER_PEER


@pytest.mark.parametrize("length", [session.MAX_HANDSHAKE_BYTES + 1, 0xFFFFFFFF])
def test_a_long_frame_before_the_proof_is_not_read(length: int) -> None:
    async def scenario(served: Served) -> None:
        reader, writer = await served.connect()
        writer.write(session.LENGTH.pack(length))
        assert await ended(reader)

    assert run(scenario).channel.rejected["refused"] == 1


def test_a_long_frame_in_the_place_of_the_proof_is_not_read() -> None:
    async def scenario(served: Served) -> None:
        reader, writer = await served.connect()
        writer.write(Client(RING.signing, "w1", "w2", bytes(session.NONCE_BYTES)).hello())
        (length,) = session.LENGTH.unpack(await reader.readexactly(session.LENGTH.size))
        await reader.readexactly(length)
        writer.write(session.LENGTH.pack(session.MAC_BYTES + 1))
        assert await ended(reader)

    assert run(scenario).channel.rejected["refused"] == 1


def test_a_port_in_use_is_a_problem_until_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_channel, "RETRY_S", 0.01)

    async def scenario() -> None:
        port = free_port()
        served = Served(port)
        with socket.create_server(("0.0.0.0", port)):
            task = asyncio.create_task(served.channel.serve(lambda: PEERS, served.answer))
            while not served.channel.problems:
                await asyncio.sleep(0)
            assert str(port) in str(served.channel.problems[0])
        while served.channel.problems:
            await asyncio.sleep(0.01)
        assert await served.ask() == Have(3, b"d")
        task.cancel()

    asyncio.run(scenario())


def test_a_node_that_is_not_there_is_no_authentic_answer() -> None:
    async def scenario() -> None:
        with pytest.raises(ConnectionRefusedError):
            await Served(free_port()).ask()

    asyncio.run(scenario())


def test_a_report_that_is_too_long_is_not_read() -> None:
    async def scenario(served: Served) -> None:
        served.detail = "x" * (1 << 17)
        assert isinstance(await served.ask(Offer(b"")), Result)
        with pytest.raises(Refused, match="too long"):
            await served.ask(Look())

    run(scenario)
