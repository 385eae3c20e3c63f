"""Exchange one request and one answer with the agent of another node, by TCP on ``cluster.port``.

A peer whose address is not in the inventory is disconnected at once. Connections are few, short and bounded in bytes
before a peer has proven that it has the cluster key. :mod:`gateway_agent.manifest_sets.session` defines the protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import IPv6Address, ip_address

from ...lease.messages.keys import Keyring
from ...manifest_sets import messages, session
from ...manifest_sets.messages import Answer, Request
from ...manifest_sets.session import (
    LENGTH,
    MAX_FRAME_BYTES,
    MAX_HANDSHAKE_BYTES,
    NONCE_BYTES,
    Client,
    Refused,
    Server,
)
from ...manifests.model import Problem

MAX_CONNECTIONS = 64
MAX_CONNECTIONS_PER_PEER = 2
CONNECT_TIMEOUT_S = 3.0
HANDSHAKE_TIMEOUT_S = 3.0
"""Seconds for the handshake, up to the client's proof."""
EXCHANGE_TIMEOUT_S = 20.0
"""Seconds for request and answer; the files of a set are written meanwhile."""
RETRY_S = 2.0
"""Seconds between two attempts to listen."""
Handler = Callable[[str, Request], Awaitable[Answer]]
log = logging.getLogger(__name__)


class SetChannel:
    """The client and server of one node.

    ``ring``: returns the keys of the cluster; None if they cannot be read.
    """

    def __init__(self, me: str, port: int, ring: Callable[[], Keyring | None]) -> None:
        self._me = me
        self._port = port
        self._ring = ring
        self._open: Counter[str] = Counter()
        self._trouble = ""
        self.rejected: Counter[str] = Counter()
        """Number of refused connections, by reason."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return the problem that the agent cannot listen; empty if it does."""
        hint = "another program may use cluster.port over TCP; it is tried again"
        return (Problem("peers", "", self._trouble, hint),) if self._trouble else ()

    async def call(self, node: str, address: str, source: str, request: Request) -> Answer:
        """Return the answer of another node. ``source``: this node's own address.

        Raises OSError if the node cannot be reached, and :class:`Refused` if it gives no authentic answer.
        """
        ring = self._ring()
        if ring is None:
            raise Refused("this node has no cluster key")
        client = Client(ring.signing, self._me, node, os.urandom(NONCE_BYTES))
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                address, self._port, local_addr=(source, 0), limit=MAX_FRAME_BYTES
            )
        try:
            async with asyncio.timeout(EXCHANGE_TIMEOUT_S):
                writer.write(client.hello())
                challenge = await _frame(reader, MAX_HANDSHAKE_BYTES)
                writer.write(client.request(challenge, messages.encoded(request)))
                await writer.drain()
                most = messages.max_answer_bytes(request) + session.MAC_BYTES
                return messages.answer(client.answer(await _frame(reader, most)))
        except (asyncio.IncompleteReadError, ConnectionResetError, BrokenPipeError) as error:
            raise Refused(
                "it closed the connection: it has another key or version, or not this node's address"
            ) from error
        except messages.Malformed as error:
            raise Refused(f"its answer cannot be read: {error}") from error
        finally:
            writer.close()

    async def serve(self, peers: Callable[[], Mapping[str, str]], handler: Handler) -> None:
        """Serve until cancelled. If listening fails, try again each :data:`RETRY_S`.

        ``peers``: returns the names of the other nodes by address.
        """

        async def take(reader: StreamReader, writer: StreamWriter) -> None:
            await self._take(reader, writer, peers(), handler)

        while True:
            try:
                server = await asyncio.start_server(
                    take, sock=_listener(self._port), limit=MAX_HANDSHAKE_BYTES
                )
            except OSError as error:
                self._say(f"cannot listen on TCP port {self._port}: {error.strerror or error}")
                await asyncio.sleep(RETRY_S)
                continue
            self._say("")
            async with server:
                await server.serve_forever()

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.error("%s", trouble)
        self._trouble = trouble

    async def _take(
        self, reader: StreamReader, writer: StreamWriter, peers: Mapping[str, str], handler: Handler
    ) -> None:
        """Serve one connection."""
        address = _address(writer)
        full = self._open.total() >= MAX_CONNECTIONS or self._open[address] >= MAX_CONNECTIONS_PER_PEER
        if address not in peers or full:
            self.rejected["too_many" if full else "unknown_address"] += 1
            writer.transport.abort()
            return
        self._open[address] += 1
        try:
            await self._answer(reader, writer, peers[address], handler)
        except Refused as error:
            self.rejected["refused"] += 1
            log.debug("a connection from %s was cut off: %s", address, error)
            writer.transport.abort()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            self.rejected["broken_off"] += 1
            writer.transport.abort()
        finally:
            self._open -= Counter([address])
            writer.close()

    async def _answer(self, reader: StreamReader, writer: StreamWriter, peer: str, handler: Handler) -> None:
        ring = self._ring()
        if ring is None:
            raise Refused("this node has no cluster key")
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            hello = await _frame(reader, MAX_HANDSHAKE_BYTES)
            server = Server(ring, self._me, hello, os.urandom(NONCE_BYTES))
            if server.peer != peer:
                raise Refused(f"it calls itself {server.peer}")
            writer.write(server.challenge())
            server.proven(await _frame(reader, session.MAC_BYTES))
        async with asyncio.timeout(EXCHANGE_TIMEOUT_S):
            try:
                request = messages.request(server.request(await _frame(reader, MAX_FRAME_BYTES)))
            except messages.Malformed as error:
                raise Refused(str(error)) from error
            writer.write(server.answer(messages.encoded(await handler(peer, request))))
            await writer.drain()
            # Closing with unread data would reset the connection and discard the answer.
            with contextlib.suppress(OSError):
                await reader.read(1)


async def _frame(reader: StreamReader, limit: int) -> bytes:
    """Return the content of the next frame. Raises :class:`Refused` if it is too long, before it is read."""
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    if length > limit:
        raise Refused(f"a frame of {length} bytes is too long")
    return await reader.readexactly(length)


def _listener(port: int) -> socket.socket:
    """Return a socket that listens for both IP versions, or for IPv4 if the kernel has no IPv6. Raises OSError."""
    both = socket.has_dualstack_ipv6()
    family, host = (socket.AF_INET6, "::") if both else (socket.AF_INET, "0.0.0.0")
    return socket.create_server((host, port), family=family, dualstack_ipv6=both, backlog=MAX_CONNECTIONS)


def _address(writer: StreamWriter) -> str:
    """Return the address of the other end; empty if it is gone already."""
    name = writer.get_extra_info("peername")
    if not name:
        return ""
    address = ip_address(name[0].partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
