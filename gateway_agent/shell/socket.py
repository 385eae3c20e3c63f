"""The agent's unix socket: one request and one answer each connection (``cni/contract.py``)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from cni import contract

Handler = Callable[[bytes], Awaitable[bytes]]
log = logging.getLogger(__name__)


class RequestServer:
    """Serves ``handler`` on ``path``. Only the owner of the process may connect."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self.path = path
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
        listener.bind(str(temporary))
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=contract.LIMIT)
        os.rename(temporary, self.path)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(contract.DEADLINE):
                request = await _read_all(reader)
            if request is not None and not _hung_up(writer):
                writer.write(await self._handler(request))
                async with asyncio.timeout(contract.DEADLINE):
                    await writer.drain()
        writer.close()


def _hung_up(writer: asyncio.StreamWriter) -> bool:
    """Whether the client has closed both directions. It waits no longer then, and has gone its own way: while this
    process could not answer, the plugin may have carried out this call and later ones alone."""
    poll = select.poll()
    poll.register(writer.get_extra_info("socket").fileno(), 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


async def _read_all(reader: asyncio.StreamReader) -> bytes | None:
    """The request, or None where it is larger than the contract allows."""
    parts: list[bytes] = []
    size = 0
    while part := await reader.read(1 << 16):
        parts.append(part)
        size += len(part)
        if size > contract.LIMIT:
            log.warning("a request of more than %d bytes was refused", contract.LIMIT)
            return None
    return b"".join(parts)
