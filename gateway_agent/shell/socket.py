"""The agent's unix socket: one request and one answer each connection (``cni/contract.py``)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
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
        # Bound under another name and then renamed: whoever finds the path can connect, and at no moment has it
        # another mode than 0600.
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, str(temporary), limit=contract.LIMIT)
        finally:
            os.umask(mask)
        os.rename(temporary, self.path)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError, asyncio.TimeoutError):
            request = await asyncio.wait_for(_read_all(reader), contract.DEADLINE)
            if request is not None:
                writer.write(await self._handler(request))
                await asyncio.wait_for(writer.drain(), contract.DEADLINE)
        writer.close()


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
