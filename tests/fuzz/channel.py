"""Connections between agents: somebody with the cluster's key, or without it, connects to an agent or answers one.

No frame ends an agent or keeps it from others. Without the key nothing is asked, and no file changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cni.plan import Plan, PlanNode
from gateway_agent.adapters.servers.set_channel import Handler, SetChannel
from gateway_agent.agent.inputs.manifest_sets import ManifestSets
from gateway_agent.agent.inputs.peers import Peers
from gateway_agent.agent.requests.whois import PeerSearch
from gateway_agent.agent.state import NodeState
from gateway_agent.connection_log.sightings import Query, Sighting
from gateway_agent.lease.messages.keys import Key, Keyring
from gateway_agent.manifest_sets import messages, session, sets
from gateway_agent.manifest_sets.messages import (
    Ask,
    Content,
    Fetch,
    Find,
    Found,
    Have,
    Look,
    Offer,
    Result,
    Try,
)
from gateway_agent.manifest_sets.session import LENGTH, Client, Hello, Refused, Server
from tests.lab.free_port import free_port
from tests.unit.agent.inputs.test_manifest_sets import Disk

from .frames import some
from .values import mutated

VICTIM, ATTACKER, STRANGER = "127.0.0.1", "127.0.0.2", "127.0.0.3"
KEY, OTHER = Key.parse(b"k" * 16), Key.parse(b"o" * 16)
FILES = {"a.yaml": "old"}
SET = sets.made(3, "w1", {"a.yaml": "new", "b.yaml": "kind: Node"}, ("w1", "w2"), (bytes(32),))
QUERY = msgspec.msgpack.encode(Query(end=("203.0.113.1", 443)))
REQUESTS = (Ask(), Fetch(), Offer(sets.packed(SET)), Find(QUERY), Look(), Try("", "", ""))
SEEN = msgspec.msgpack.encode([])
ANSWERS = (Have(9, bytes(32)), Content(sets.packed(SET)), Result("applied"), Found(SEEN))
logging.getLogger("gateway_agent").addHandler(logging.NullHandler())
ATTACKS = 12
"""Connections in one scenario."""
DEADLINE_S = 20.0
"""Seconds after which a scenario hangs: more than the agent's own time-outs on a busy machine."""


@dataclass
class Victim:
    """The node w2: what came of its connections."""

    port: int
    disk: Disk = field(default_factory=lambda: Disk(dict(FILES)))
    failed: list[Exception] = field(default_factory=list)
    asked: int = 0
    """Requests that were taken for authentic."""

    def __post_init__(self) -> None:
        state = NodeState(plan=plan("w2"))
        victim = self

        class Channel(SetChannel):
            async def _take(
                self, reader: StreamReader, writer: StreamWriter, peers: Mapping[str, str], handler: Handler
            ) -> None:
                try:
                    await super()._take(reader, writer, peers, handler)
                except Exception as error:
                    victim.failed.append(error)
                    raise

        self.channel = Channel("w2", self.port, lambda: Keyring(KEY))
        self.peers = Peers("w2", state, self.channel)
        self.sets = ManifestSets(self.peers, self.disk)
        PeerSearch(self.peers).serve(self.search)

    async def search(self, query: Query) -> list[Sighting]:
        return []

    async def answer(self, peer: str, request: messages.Request) -> messages.Answer:
        self.asked += 1
        return await self.peers.answer(peer, request)

    async def serve(self) -> None:
        addresses = self.peers.addresses()
        await self.channel.serve(lambda: {each: name for name, each in addresses.items()}, self.answer)


def plan(node: str) -> Plan:
    return Plan(node, 0x0FF00000, 4799, 1450, (PlanNode("w1", ATTACKER), PlanNode("w2", VICTIM)))


def once(rng: random.Random) -> None:
    """Run one scenario: an agent that listens, and others that connect to it or that it connects to."""

    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await _scenario(rng)

    asyncio.run(bounded())


async def _scenario(rng: random.Random) -> None:
    with_key = rng.random() < 0.5
    key = KEY if with_key else OTHER
    async with _serving() as victim:
        recorded = await _genuine(victim)
        before = victim.asked
        for _ in range(ATTACKS):
            await _connect(victim, rng, key, recorded)
        if not with_key:
            assert (victim.asked, victim.disk.files, victim.disk.last) == (before, FILES, None)
        await _ask_an_impostor(victim, rng, key)
        await _genuine(victim)
        assert not victim.failed, victim.failed
        if not with_key:
            assert victim.disk.files == FILES
        assert all(sets.is_manifest(name) and "/" not in name for name in victim.disk.files)


@contextlib.asynccontextmanager
async def _serving() -> AsyncIterator[Victim]:
    victim = Victim(free_port())
    task = asyncio.create_task(victim.serve())
    try:
        yield victim
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _genuine(victim: Victim) -> bytes:
    """Ask as the node w1 does, and return all that it sends. Places of ended connections become free meanwhile."""
    while True:
        with contextlib.suppress(ConnectionError):
            reader, writer = await asyncio.open_connection(VICTIM, victim.port, local_addr=(ATTACKER, 0))
            client = Client(KEY, "w1", "w2", random.randbytes(session.NONCE_BYTES))
            sent = client.hello()
            writer.write(sent)
            challenge = await _frame(reader)
            if challenge is not None:
                sent += (more := client.request(challenge, messages.encoded(Ask())))
                writer.write(more)
                answer = await _frame(reader)
                writer.close()
                assert answer is not None
                assert isinstance(messages.answer(client.answer(answer)), Have)
                return sent
            writer.close()
        await asyncio.sleep(0)


async def _frame(reader: StreamReader) -> bytes | None:
    """Return the content of the next frame; None if the other end has closed."""
    try:
        (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def _connect(victim: Victim, rng: random.Random, key: Key, recorded: bytes) -> None:
    """Connect to the agent, send something, and wait until the agent has closed."""
    source = rng.choice([ATTACKER, ATTACKER, ATTACKER, STRANGER])
    with contextlib.suppress(ConnectionError):
        reader, writer = await asyncio.open_connection(VICTIM, victim.port, local_addr=(source, 0))
        try:
            if rng.random() < 0.6:
                await _converse(reader, writer, rng, key)
            else:
                writer.write(_unauthentic(rng, key, recorded))
            writer.write_eof()
            await writer.drain()
            while await reader.read(1 << 16):
                pass
        finally:
            writer.close()


def _unauthentic(rng: random.Random, key: Key, recorded: bytes) -> bytes:
    """Return bytes that need no answer of the agent."""
    hello = msgspec.to_builtins(Hello(session.VERSION, key.number, rng.randbytes(16), "w1", "w2"))
    return rng.choice(
        (
            rng.randbytes(rng.choice([0, 1, 4, 100, 5000])),
            # Of another connection.
            recorded,
            some(recorded, rng),
            LENGTH.pack(rng.choice([0, 1, 1024, 1025, 1 << 22, 0xFFFFFFFF]))
            + rng.randbytes(rng.choice([0, 50])),
            _framed(mutated(hello, rng)) + rng.randbytes(rng.choice([0, 36, 200])),
        )
    )


def _framed(value: Any) -> bytes:
    return session.frame(_packed(value))


def _packed(value: Any) -> bytes:
    """Return any value as MessagePack; nothing if it cannot hold it."""
    try:
        return msgspec.msgpack.encode(value)
    except (OverflowError, UnicodeError, TypeError, RecursionError):
        return b""


async def _converse(reader: StreamReader, writer: StreamWriter, rng: random.Random, key: Key) -> None:
    """Prove the key, if it is the right one, and send a request of any content."""
    client = Client(key, "w1", "w2", rng.randbytes(session.NONCE_BYTES))
    writer.write(client.hello())
    challenge = await _frame(reader)
    if challenge is None:
        return
    try:
        frames = client.request(challenge, _hostile(REQUESTS, rng))
    except Refused:
        # Without the key: the proof is a guess.
        frames = session.frame(rng.randbytes(session.MAC_BYTES)) + _framed(_hostile(REQUESTS, rng))
    writer.write(some(frames, rng) if rng.random() < 0.2 else frames)


def _hostile(known: tuple[Any, ...], rng: random.Random) -> bytes:
    """Return a message with fields of any value: at most as long as one may be."""
    message = rng.choice(known)
    fields = msgspec.msgpack.decode(messages.encoded(message))
    if rng.random() < 0.7:
        for name in ("manifests", "query", "sightings"):
            if name in fields:
                fields[name] = rng.choice((_damaged(fields[name], rng), some(fields[name], rng)))
    if rng.random() < 0.7:
        fields = mutated(fields, rng)
    raw = _packed(fields)
    return (some(raw, rng) if rng.random() < 0.2 else raw)[: messages.MAX_BODY_BYTES]


def _damaged(packed: bytes, rng: random.Random) -> bytes:
    return _packed(mutated(msgspec.msgpack.decode(packed), rng)) if packed else packed


async def _ask_an_impostor(victim: Victim, rng: random.Random, key: Key) -> None:
    """Let the agent ask for a newer set; what answers has the address of w1 and perhaps its key."""

    async def answer(reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.closing(writer):
            hello = await _frame(reader) or b""
            if rng.random() < 0.2:
                writer.write(rng.randbytes(rng.choice([0, 4, 100])))
                return
            server = _impostor(hello, rng, key)
            writer.write(server.challenge())
            # The agent closes if the challenge does not convince it.
            proof, request = await _frame(reader), await _frame(reader)
            if proof is not None and request is not None:
                server.proven(proof)
                server.request(request)
                writer.write(server.answer(_hostile(ANSWERS, rng)))

    with socket.create_server((ATTACKER, 0)) as listener:
        channel = SetChannel("w2", listener.getsockname()[1], lambda: Keyring(KEY))
        peers = Peers("w2", NodeState(plan=plan("w2")), channel)
        asking, search = ManifestSets(peers, victim.disk), PeerSearch(peers)
        server = await asyncio.start_server(answer, sock=listener)
        async with server:
            for _ in range(3):
                with contextlib.suppress(OSError, Refused):
                    await asking.take_newer("w1")
                with contextlib.suppress(OSError):
                    await search.ask("w1", Query(end=("203.0.113.1", 443)))


def _impostor(hello: bytes, rng: random.Random, key: Key) -> Server:
    """Return the end of an impostor, who signs by its own key, whichever the agent has named."""
    said = msgspec.msgpack.decode(hello, type=Hello)
    forged = msgspec.msgpack.encode(Hello(said.version, key.number, said.nonce, said.sender, said.receiver))
    return Server(Keyring(key), "w1", hello if key == KEY else forged, rng.randbytes(session.NONCE_BYTES))
