"""Serve the agent's unix socket: one request and one answer per connection (``cni/contract.py``)."""

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
"""Seconds between two checks of the socket's path."""
READ_BYTES = 1 << 16
"""Bytes of one read."""


class RequestServer:
    """Serves ``handler`` on ``path``. Only the user of the process may connect.

    ``handler``: returns the answer to the bytes of a request. ``restored``: called after the socket and its directory
    had vanished and were created again.
    """

    def __init__(self, path: Path, handler: Handler, restored: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self._restored = restored
        self._inode = 0
        self._handler = handler
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Start to listen, and replace the socket file of an earlier process. Raises OSError.

        The lock of the run directory has made sure that no other agent is alive.
        """
        # Bound under another name and then renamed, so that a client that finds the path can connect: a socket has no
        # content that cni.files.replace_file could write.
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The file gets its mode from the socket (unix(7)), so it has the right mode from the start. The umask would
        # do that too, but all threads share it.
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
        """Listen again whenever the socket or its directory has vanished. Never ends."""
        logged = ""
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
                logged = ""
            except OSError as error:
                if str(error) != logged:
                    log.error("%s is gone and cannot be created again: %s", self.path, error)
                logged = str(error)

    async def stop(self) -> None:
        """Stop listening and remove the socket file."""
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
                        # close() with unread data would reset the connection and discard the answer.
                        while await reader.read(READ_BYTES):
                            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """Return the answer to a client's request; empty if the client has hung up."""
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
    """Return the answer to an invalid request: a CNI error object with code 100 (internal)."""
    error = {"cniVersion": "1.1.0", "code": contract.INTERNAL, "msg": message, "details": details}
    return contract.ERROR + json.dumps(error).encode()


def _hung_up(writer: asyncio.StreamWriter) -> bool:
    """Return True if the client has closed both directions.

    Such a client does not wait for an answer. While this process could not answer, the plugin may have carried out
    this call and later ones alone, so the request must be dropped.
    """
    poll = select.poll()
    poll.register(writer.get_extra_info("socket").fileno(), 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    """Return the request. Stop reading soon after the size that the contract allows."""
    parts: list[bytes] = []
    size = 0
    while size <= contract.MAX_REQUEST_BYTES and (part := await reader.read(READ_BYTES)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)
