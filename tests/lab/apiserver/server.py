"""The front of an API server: who may ask, what is counted, and what goes wrong on demand. An origin answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from .origin import Event, Origin, Refused
from .traffic import Traffic

GENERATION = web.RequestKey("generation", int)
"""Number of times that all watches had been ended when the request came."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Faults:
    """``match``: what a request's path and query must contain to be struck."""

    match: str = ""
    status: int = 0
    """HTTP status of the answer; 0: the true one."""
    retry_after: int = 0
    latency: float = 0.0
    """Seconds before an answer, and before each event."""
    hang: bool = False
    """True if a request gets no answer at all."""
    deaf: bool = False
    """True if watches bring nothing any more, bookmarks neither."""
    stale: bool = False
    """True if a request that was answered before gets its old answer again."""


class Server:
    """``token_file``: who bears the token in it is answered; anybody on a unix socket, which is the test's own."""

    def __init__(self, origin: Origin, token_file: Path | None = None) -> None:
        self.requests: Counter[str] = Counter()
        self.traffic = Traffic()
        self._origin = origin
        self._token_file = token_file
        self._faults = Faults()
        self._news = asyncio.Event()
        self._generation = 0
        self._answers: dict[tuple[str, str], bytes] = {}
        """The last answer to each request of an agent."""

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=64 << 20)
        app.router.add_route("*", "/_{control:faults|drop|compact|requests|traffic}", self._control)
        app.router.add_route("*", "/{path:.*}", self._answer)
        return app

    def _changed(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    # --- every request ---------------------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        # A watch that is just being opened ends with the others.
        request[GENERATION] = self._generation
        try:
            if not _own(request) and not request.path.startswith("/_"):
                watched = " (watch)" if _is_watch(request) else ""
                question = f"{request.method} {request.path}{watched}"
                self.requests[question] += 1
                self.traffic.asked(request, question)
                self._authenticate(request)
                await self._strike(request)
            return await handler(request)
        except Refused as refused:
            headers = {"Retry-After": str(self._faults.retry_after)} if self._faults.retry_after else {}
            return web.json_response(refused.status, status=refused.code, headers=headers)

    def _authenticate(self, request: web.Request) -> None:
        if self._token_file is not None:
            wanted = f"Bearer {self._token_file.read_text().strip()}"
            if request.headers.get("Authorization") != wanted:
                raise Refused(401, "Unauthorized", "Unauthorized")

    async def _strike(self, request: web.Request) -> None:
        faults = self._struck(request)
        if faults.hang:
            await asyncio.Event().wait()
        await asyncio.sleep(faults.latency)
        if faults.status:
            raise Refused(faults.status, "Fault", "a fault that a test has asked for")

    def _struck(self, request: web.Request) -> Faults:
        return self._faults if self._faults.match in request.path_qs else Faults()

    async def _control(self, request: web.Request) -> web.StreamResponse:
        match request.match_info["control"], request.method:
            case "faults", "POST":
                self._faults = Faults(**await request.json())
            case "faults", "DELETE":
                self._faults = Faults()
            case "drop", "POST":
                self._generation += 1
            case "compact", "POST":
                await self._origin.compact()
            case "requests", "GET":
                return web.json_response(self.requests)
            case "traffic", "GET":
                return web.json_response(self.traffic.table())
            case _:
                raise web.HTTPMethodNotAllowed(request.method, ["POST"])
        self._changed()
        return web.json_response({})

    # --- answers ---------------------------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if not _is_watch(request):
            return await self._read(request)
        events = await self._origin.watch(request, own=_own(request))
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        async with contextlib.aclosing(events):
            await response.prepare(request)
            delivery = asyncio.create_task(self._deliver(request, events, response))
            ended = asyncio.create_task(self._dropped(request))
            try:
                await asyncio.wait({delivery, ended}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (delivery, ended):
                    task.cancel()
                outcomes = await asyncio.gather(delivery, ended, return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome
        return response

    async def _read(self, request: web.Request) -> web.StreamResponse:
        question = request.path_qs, request.headers.get("Accept", "")
        remembered = request.method == "GET" and not _own(request)
        if remembered and self._struck(request).stale and question in self._answers:
            return web.Response(body=self._answers[question], content_type="application/json")
        answer = await self._origin.answer(request, own=_own(request))
        if remembered and answer.status == web.HTTPOk.status_code and isinstance(answer, web.Response):
            self._answers[question] = bytes(answer.body or b"")  # type: ignore[arg-type]
            self.traffic.answered(request, self._answers[question])
        return answer

    async def _deliver(
        self, request: web.Request, events: AsyncGenerator[Event], response: web.StreamResponse
    ) -> None:
        async for kind, item in events:
            while self._struck(request).deaf:
                await self._news.wait()
            await asyncio.sleep(self._struck(request).latency)
            await _send(response, kind, item)
            self.traffic.delivered(request, kind)

    async def _dropped(self, request: web.Request) -> None:
        while request[GENERATION] == self._generation:
            await self._news.wait()


def _own(request: web.Request) -> bool:
    return request.transport is not None and isinstance(request.transport.get_extra_info("sockname"), str)


def _is_watch(request: web.Request) -> bool:
    return request.query.get("watch") in ("true", "1")


async def _send(response: web.StreamResponse, kind: str, item: Any) -> None:
    await response.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")
