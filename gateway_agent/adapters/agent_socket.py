"""The agent's unix socket: one request and one answer each connection (``cni/contract.py``)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import select
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from cni import contract
from cni.files import named

Handler = Callable[[bytes], Awaitable[bytes]]
log = logging.getLogger(__name__)
POLL_INTERVAL_S = 1.0
"""Seconds between two looks at the socket's path."""
PART = 1 << 16
"""Bytes that are read at once."""


class RequestServer:
    """Serves ``handler`` on ``path``. Only the owner of the process may connect."""

    def __init__(self, path: Path, handler: Handler, restored: Callable[[], None] = lambda: None) -> None:
        """``restored`` is called after the directory of the socket was made again."""
        self.path = path
        self._restored = restored
        self._inode = 0
        self._handler = handler
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens. A socket file that an earlier process left is replaced; the run directory's lock says that
        no other agent is alive."""
        # Bound under another name and then renamed: whoever finds the path can connect.
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The file gets its mode from the socket (unix(7)), so it never has another one. The umask would do that too,
        # but it belongs to all threads.
        os.fchmod(listener.fileno(), 0o600)
        try:
            with named(self.path):
                listener.bind(str(temporary))
        except OSError:
            listener.close()
            raise
        self._server = await asyncio.start_unix_server(
            self._serve, sock=listener, limit=contract.MAX_REQUEST_BYTES
        )
        self._inode = temporary.stat().st_ino
        os.rename(temporary, self.path)

    def reachable(self) -> bool:
        """Return True if clients find this server at its path."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    async def keep(self) -> None:
        """Listen again whenever the socket or its directory is gone: nobody could reach the agent. Never ends."""
        told = ""
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            if self._server is None or self.reachable():
                continue
            try:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                before = self._server
                await self.start()
                before.close()
                self._restored()
                log.warning("%s was gone: listening there again", self.path)
                told = ""
            except OSError as error:
                if str(error) != told:
                    log.error("%s is gone and cannot be made again: %s", self.path, error)
                told = str(error)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, TimeoutError):
                answer = await self._answer(reader, writer)
                if answer and not _hung_up(writer):
                    writer.write(answer)
                    writer.write_eof()
                    async with asyncio.timeout(contract.DEADLINE_S):
                        await writer.drain()
                        # To close while something is unread would reset the connection, and the answer with it.
                        while await reader.read(PART):
                            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """Return the answer to the request of a client; empty if nobody waits for one."""
        try:
            async with asyncio.timeout(contract.DEADLINE_S):
                request = await _read_all(reader)
        except TimeoutError:
            return refusal(f"the request did not end within {contract.DEADLINE_S:g} s")
        if len(request) > contract.MAX_REQUEST_BYTES:
            log.warning("a request of more than %d bytes was refused", contract.MAX_REQUEST_BYTES)
            return refusal(f"the request has more than {contract.MAX_REQUEST_BYTES} bytes")
        if _hung_up(writer):
            return b""
        try:
            return await self._handler(request)
        except Exception as error:
            log.exception("a request failed")
            return refusal(f"the agent failed: {type(error).__name__}: {error}", "see its log")


def refusal(message: str, details: str = "") -> bytes:
    """Return the answer to what is no request that the agent can read: a CNI error object."""
    error = {"cniVersion": "1.1.0", "code": contract.INTERNAL, "msg": message, "details": details}
    return contract.ERROR + json.dumps(error).encode()


def _hung_up(writer: asyncio.StreamWriter) -> bool:
    """Whether the client has closed both directions. It waits no longer then, and has gone its own way: while this
    process could not answer, the plugin may have carried out this call and later ones alone."""
    poll = select.poll()
    poll.register(writer.get_extra_info("socket").fileno(), 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    """Return the request, or a little more than the contract allows."""
    parts: list[bytes] = []
    size = 0
    while size <= contract.MAX_REQUEST_BYTES and (part := await reader.read(PART)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)
