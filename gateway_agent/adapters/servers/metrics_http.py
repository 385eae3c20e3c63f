"""Serve metrics, health and the status page by HTTP, read only.

The server has its own thread with its own event loop: it answers even if the agent's loop hangs, and slow, many or
malicious clients do not affect the agent. Tornado reads requests and writes responses; this module limits the number
and duration of connections (docs/design/metrics-server.md).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

from tornado.http1connection import HTTP1ConnectionParameters, HTTP1ServerConnection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
)
from tornado.iostream import IOStream

from ... import printable
from ...manifests.model import Problem
from ...show import allowed_hosts
from ...show.metrics.families import Observation
from ...show.metrics.node_counters import NodeCounters
from .event_streams import EventStreams
from .http_requests import EVENTS, HEADERS, Request, Responder
from .metrics_answers import PAGES, Answer, sections

T = TypeVar("T")
log = logging.getLogger(__name__)
RETRY_S = 1.0
"""Seconds between two attempts to listen, and to accept connections after a failure."""
ANSWER_TIMEOUT_S = 1.0
"""Seconds that the agent's loop gets to answer."""
CONNECTION_TIMEOUT_S = 5.0
"""Seconds that a connection may last."""
MAX_REQUEST_BYTES = 8192
"""Size of a request's head. Up to :data:`MAX_READ_BYTES` a larger one is refused, beyond that its connection ends."""
MAX_READ_BYTES = 1 << 16
MAX_BODY_BYTES = 1 << 20
"""Size of a request's body, which is read and discarded."""
MAX_CONNECTIONS = 64
"""Connections at the same time. One more ends the oldest."""
NOT_OURS = (
    "is not served here: ask by an address of this node, as localhost, or by a name that metrics.names in the agent's "
    "configuration lists"
)
PARAMETERS = HTTP1ConnectionParameters(
    no_keep_alive=True,
    chunk_size=MAX_REQUEST_BYTES,
    max_header_size=MAX_READ_BYTES,
    max_body_size=MAX_BODY_BYTES,
)


class MetricsServer:
    """The server of metrics, health and status on one address.

    ``listen``: address and TCP port. ``look``: returns the observation to show; called in the loop of :meth:`run`.
    ``deadline``: seconds, see :data:`CONNECTION_TIMEOUT_S`. ``names``: host names that a request may use beside
    addresses. ``group``: returns the state of all nodes; called in that loop, too, while a browser shows the page.
    ``kernel``: returns the kernel's counters for metrics; called in the server's thread, as it takes milliseconds.
    """

    def __init__(
        self,
        listen: tuple[str, int],
        look: Callable[[], Observation],
        deadline: float = CONNECTION_TIMEOUT_S,
        names: Collection[str] = (),
        group: Callable[[], Mapping[str, Any] | None] = lambda: None,
        kernel: Callable[[], NodeCounters] = NodeCounters,
    ) -> None:
        self._kernel = kernel
        self._group = group
        self._listen = listen
        self._names = frozenset(names)
        self._look = look
        self._deadline = deadline
        self._trouble = ""
        self._thread: threading.Thread | None = None
        self._end_requested: Future[None] = Future()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return the problem that the server cannot listen; empty if it does."""
        hint = "metrics.listen in the agent's configuration; it is tried again"
        return (Problem("metrics", "", self._trouble, hint),) if self._trouble else ()

    async def run(self) -> None:
        """Serve until cancelled. If listening fails, try again each :data:`RETRY_S`. Raises no error."""
        agent = asyncio.get_running_loop()
        try:
            while True:
                if self._thread is None or not self._thread.is_alive():
                    self._start(agent)
                await asyncio.sleep(RETRY_S)
        finally:
            if not self._end_requested.done():
                self._end_requested.set_result(None)
            if self._thread is not None:
                self._thread.join(ANSWER_TIMEOUT_S)

    def _start(self, agent: asyncio.AbstractEventLoop) -> None:
        host, port = self._listen
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            # Not inherited by child processes or by the program of a restart in place (PEP 446).
            listener = socket.create_server((host, port), family=family)
            listener.setblocking(False)
            self._thread = threading.Thread(
                target=self._serve, args=(listener, agent), name="metrics", daemon=True
            )
            self._thread.start()
        except (OSError, RuntimeError) as error:
            self._say(error)

    def _say(self, error: Exception | None) -> None:
        host, port = self._listen
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number else str(error)
        trouble = f"cannot listen on {where}: {reason}" if error else ""
        if trouble and trouble != self._trouble:
            log.error("metrics: %s", trouble)
        elif not trouble:
            log.info("metrics: serving on http://%s/", where)
        self._trouble = trouble

    # --- in the thread -----------------------------------------------------------------------------------------

    def _serve(self, listener: socket.socket, agent: asyncio.AbstractEventLoop) -> None:
        # Clients can cause any number of these messages. Errors of this module's code have another logger.
        logging.getLogger("tornado.general").setLevel(logging.CRITICAL)
        try:
            with listener:
                asyncio.run(self._until_end(listener, agent))
        except Exception as error:
            self._say(error)

    async def _until_end(self, listener: socket.socket, agent: asyncio.AbstractEventLoop) -> None:
        async def respond(start: RequestStartLine, headers: HTTPHeaders) -> Answer:
            return _refusal(start, headers, self._names) or await _answer(
                start.path, look, agent, self._kernel
            )

        def look(of_page: bool = False) -> Observation:
            return replace(self._look(), group=self._group()) if of_page else self._look()

        async def changing() -> dict[str, str] | None:
            try:
                return sections(await _ask(agent, partial(look, True)))
            except TimeoutError:
                return None

        connections = _Connections(respond, self._deadline, EventStreams(changing))
        accepting = asyncio.create_task(connections.accept(listener))
        ended = asyncio.wrap_future(self._end_requested)
        self._say(None)
        try:
            await asyncio.wait((accepting, ended), return_when=asyncio.FIRST_COMPLETED)
            if accepting.done():
                accepting.result()
        finally:
            accepting.cancel()
            connections.close()


class _Connections(HTTPServerConnectionDelegate):
    """Accept connections and limit their number and their duration, which Tornado does not."""

    def __init__(self, respond: Responder, deadline: float, streams: EventStreams) -> None:
        self._respond = respond
        self._deadline = deadline
        self._streams = streams
        self._sending: set[asyncio.Task[None]] = set()
        self._open: dict[IOStream, asyncio.TimerHandle] = {}
        """Streams, the oldest first, with the timers that end them."""

    async def accept(self, listener: socket.socket) -> None:
        """Accept connections until cancelled. Tornado's own loop spins while the process has no descriptor left."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError:
                await asyncio.sleep(RETRY_S)
                continue
            if len(self._open) >= MAX_CONNECTIONS:
                # The oldest is the slowest: a well-behaved client is done in milliseconds.
                oldest = next(iter(self._open))
                self._open.pop(oldest).cancel()
                oldest.close()
            stream = IOStream(client, max_buffer_size=2 * MAX_READ_BYTES, read_chunk_size=MAX_READ_BYTES)
            self._open[stream] = loop.call_later(self._deadline, stream.close)
            HTTP1ServerConnection(stream, PARAMETERS).start_serving(self)

    def close(self) -> None:
        """End all connections at once."""
        for stream in tuple(self._open):
            stream.close()

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Return the delegate that receives a request."""
        assert isinstance(server_conn, HTTP1ServerConnection)
        return Request(request_conn, self._respond, partial(self._stream, server_conn.stream))

    def _stream(self, stream: IOStream, connection: HTTPConnection) -> None:
        """Send events without a deadline. Among the streams, this one is still the oldest."""
        if timer := self._open.get(stream):
            timer.cancel()

        async def send() -> None:
            try:
                await self._streams.send(connection, HEADERS)
            finally:
                stream.close()

        task = asyncio.create_task(send())
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def on_close(self, server_conn: object) -> None:
        """Forget a connection that has ended."""
        assert isinstance(server_conn, HTTP1ServerConnection)
        if timer := self._open.pop(server_conn.stream, None):
            timer.cancel()


def _refusal(start: RequestStartLine, headers: HTTPHeaders, names: Collection[str]) -> Answer | None:
    size = len(start.path) + sum(len(name) + len(value) for name, value in headers.get_all())
    if size > MAX_REQUEST_BYTES:
        return Answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request is too large\n")
    if foreign := allowed_hosts.refused(headers.get_list("Host"), names):
        return Answer(HTTPStatus.MISDIRECTED_REQUEST, f"{printable.printable(foreign)} {NOT_OURS}\n")
    if start.method not in ("GET", "HEAD"):
        return Answer(HTTPStatus.METHOD_NOT_ALLOWED, "read only: GET and HEAD\n")
    return None


async def _answer(
    target: str,
    look: Callable[[bool], Observation],
    agent: asyncio.AbstractEventLoop,
    kernel: Callable[[], NodeCounters],
) -> Answer:
    path = target.partition("?")[0]
    form = PAGES.get(path)
    if path == EVENTS:
        return Answer(HTTPStatus.OK, "", "text/event-stream")
    if form is None and path != "/healthz":
        return Answer(HTTPStatus.NOT_FOUND, f"not here; there is /healthz {EVENTS} {' '.join(PAGES)}\n")
    try:
        if form is None:
            await _ask(agent, lambda: None)
            return Answer(HTTPStatus.OK, "ok\n")
        seen = await _ask(agent, partial(look, path == "/"))
        return form(replace(seen, kernel=kernel()) if path == "/metrics" else seen)
    except TimeoutError:
        message = f"the agent's event loop has not answered within {ANSWER_TIMEOUT_S:g} s\n"
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, message)
    except Exception:
        log.exception("metrics: a request failed")
        return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, "the agent failed: see its log\n")


async def _ask(agent: asyncio.AbstractEventLoop, question: Callable[[], T]) -> T:
    """Return the result of ``question``, called in the agent's loop. Raises TimeoutError if the loop is too busy."""

    async def answer() -> T:
        return question()

    asked = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(answer(), agent))
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        return await asked
