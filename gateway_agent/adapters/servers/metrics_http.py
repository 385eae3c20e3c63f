"""Serve metrics, health and the status page by HTTP, read only.

The server has its own thread with its own event loop: it answers even if the agent's loop hangs, and slow, many or
malicious clients do not affect the agent. Tornado reads requests and writes responses; how long and how many
connections may be open is decided here (docs/design/metrics-server.md).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import Future
from http import HTTPStatus
from typing import TypeVar

from tornado.http1connection import HTTP1ConnectionParameters, HTTP1ServerConnection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream

from ... import printable
from ...manifests.model import Problem
from ...show import allowed_hosts
from ...show.metrics.families import Observation
from .metrics_answers import PAGES, Answer

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
# The page loads no resources, and no other page may show it in a frame.
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
PARAMETERS = HTTP1ConnectionParameters(
    no_keep_alive=True,
    chunk_size=MAX_REQUEST_BYTES,
    max_header_size=MAX_READ_BYTES,
    max_body_size=MAX_BODY_BYTES,
)
Responder = Callable[[RequestStartLine, HTTPHeaders], Awaitable[Answer]]


class MetricsServer:
    """Serves metrics, health and status on one address.

    ``listen``: address and TCP port. ``look``: returns what is shown; called in the loop of :meth:`run`. ``deadline``:
    seconds, see :data:`CONNECTION_TIMEOUT_S`. ``names``: host names that a request may use beside addresses.
    """

    def __init__(
        self,
        listen: tuple[str, int],
        look: Callable[[], Observation],
        deadline: float = CONNECTION_TIMEOUT_S,
        names: Collection[str] = (),
    ) -> None:
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
        # Clients cause these messages, as many as they want. Errors of this module's code have another logger.
        logging.getLogger("tornado.general").setLevel(logging.CRITICAL)
        try:
            with listener:
                asyncio.run(self._until_end(listener, agent))
        except Exception as error:
            self._say(error)

    async def _until_end(self, listener: socket.socket, agent: asyncio.AbstractEventLoop) -> None:
        async def respond(start: RequestStartLine, headers: HTTPHeaders) -> Answer:
            return _refusal(start, headers, self._names) or await _answer(start.path, self._look, agent)

        connections = _Connections(respond, self._deadline)
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

    def __init__(self, respond: Responder, deadline: float) -> None:
        self._respond = respond
        self._deadline = deadline
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
        """Return the recipient of a request."""
        return _Request(request_conn, self._respond)

    def on_close(self, server_conn: object) -> None:
        """Forget a connection that has ended."""
        assert isinstance(server_conn, HTTP1ServerConnection)
        if timer := self._open.pop(server_conn.stream, None):
            timer.cancel()


class _Request(HTTPMessageDelegate):
    """Finds the answer to one request and sends it when the body has been read: a reset could overtake it before."""

    def __init__(self, connection: HTTPConnection, respond: Responder) -> None:
        self._connection = connection
        self._respond = respond
        self._method = ""
        self._answer: Answer | None = None

    async def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> None:
        """Find the answer. Meanwhile the end of the client's data is not read: it would end the connection."""
        assert isinstance(start_line, RequestStartLine)
        self._method = start_line.method
        self._answer = await self._respond(start_line, headers)

    def finish(self) -> None:
        """Send the answer. The connection ends when it is sent, or at the deadline."""
        answer = self._answer
        assert answer is not None
        fields = {"Content-Type": answer.kind, "Content-Length": str(len(answer.body)), **HEADERS}
        if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
            fields["Allow"] = "GET, HEAD"
        line = ResponseStartLine("HTTP/1.1", answer.status.value, answer.status.phrase)
        body = b"" if self._method == "HEAD" else answer.body
        self._connection.write_headers(line, HTTPHeaders(fields), body)
        self._connection.finish()


def _refusal(start: RequestStartLine, headers: HTTPHeaders, names: Collection[str]) -> Answer | None:
    size = len(start.path) + sum(len(name) + len(value) for name, value in headers.get_all())
    if size > MAX_REQUEST_BYTES:
        return Answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request is too large\n")
    if foreign := allowed_hosts.refused(headers.get_list("Host"), names):
        return Answer(HTTPStatus.MISDIRECTED_REQUEST, f"{printable.printable(foreign)} {NOT_OURS}\n")
    if start.method not in ("GET", "HEAD"):
        return Answer(HTTPStatus.METHOD_NOT_ALLOWED, "read only: GET and HEAD\n")
    return None


async def _answer(target: str, look: Callable[[], Observation], agent: asyncio.AbstractEventLoop) -> Answer:
    path = target.partition("?")[0]
    form = PAGES.get(path)
    if form is None and path != "/healthz":
        return Answer(HTTPStatus.NOT_FOUND, f"not here; there is /healthz {' '.join(PAGES)}\n")
    try:
        if form is None:
            await _ask(agent, lambda: None)
            return Answer(HTTPStatus.OK, "ok\n")
        return form(await _ask(agent, look))
    except TimeoutError:
        words = f"the agent's event loop has not answered within {ANSWER_TIMEOUT_S:g} s\n"
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, words)
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
