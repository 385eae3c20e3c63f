"""Send the sections of the page that change, as server-sent events, while a browser shows it.

However many look, the agent is asked once for each interval. A reader that does not take what is sent ends.
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
"""Seconds between two looks."""
WRITE_TIMEOUT_S = 10.0
"""Seconds for a reader to take an event."""
RETRY_MS = 1000
"""Milliseconds after which a browser connects again."""


class EventStreams:
    """Streams of one server. ``look``: returns the sections; None if the agent gives no answer."""

    def __init__(self, look: Callable[[], Awaitable[Sections | None]]) -> None:
        self._look = look
        self._seen: Sections | None = None
        self._seen_at = float("-inf")
        self._looking = asyncio.Lock()

    async def send(self, connection: HTTPConnection, headers: Mapping[str, str]) -> None:
        """Send all sections, then those that change, until the client goes or is too slow."""
        fields = {"Content-Type": "text/event-stream; charset=utf-8", **headers}
        sent: dict[str, str] = {}
        with contextlib.suppress(StreamClosedError, TimeoutError):
            first = f"retry: {RETRY_MS}\n\n".encode()
            await _taken(
                connection.write_headers(ResponseStartLine("HTTP/1.1", 200, "OK"), HTTPHeaders(fields), first)
            )
            while True:
                found = await self._sections()
                # A comment shows that the client is there; without an answer of the agent nothing else is said.
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
