"""Send the sections of the page that change, as server-sent events, while a browser shows it.

However many browsers connect, the agent is asked once in each interval. A client that does not read is disconnected.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping

from tornado.httputil import HTTPConnection, HTTPHeaders, ResponseStartLine
from tornado.iostream import StreamClosedError

Sections = Mapping[str, str]
INTERVAL_S = 0.4
"""Seconds between two reads of the agent's state."""
WRITE_TIMEOUT_S = 10.0
"""Seconds for a reader to take an event."""
RETRY_MS = 1000
"""Milliseconds after which a browser connects again."""


class EventStreams:
    """The streams of one server. ``look``: returns the sections; None if the agent gives no answer."""

    def __init__(self, look: Callable[[], Awaitable[Sections | None]]) -> None:
        self._look = look
        self._seen: Sections | None = None
        self._seen_at = float("-inf")
        self._looking = asyncio.Lock()

    async def send(self, connection: HTTPConnection, headers: Mapping[str, str]) -> None:
        """Send all sections, then changed ones, until the client disconnects or is too slow."""
        fields = {"Content-Type": "text/event-stream; charset=utf-8", **headers}
        sent: dict[str, str] = {}
        with contextlib.suppress(StreamClosedError, TimeoutError):
            first = f"retry: {RETRY_MS}\n\n".encode()
            await _taken(
                connection.write_headers(ResponseStartLine("HTTP/1.1", 200, "OK"), HTTPHeaders(fields), first)
            )
            while True:
                found = await self._sections()
                # A comment detects a client that is gone; without an answer of the agent no other line is sent.
                changed = {name: text for name, text in (found or {}).items() if sent.get(name) != text}
                event = f"data: {json.dumps(changed)}\n\n" if changed else ":\n\n"
                await _taken(connection.write(event.encode("utf-8", "backslashreplace")))
                sent |= changed
                await asyncio.sleep(INTERVAL_S)

    async def _sections(self) -> Sections | None:
        async with self._looking:
            now = asyncio.get_running_loop().time()
            if now - self._seen_at >= INTERVAL_S:
                self._seen = await self._look()
                self._seen_at = asyncio.get_running_loop().time()
            return self._seen


async def _taken(writing: Awaitable[None]) -> None:
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await writing
