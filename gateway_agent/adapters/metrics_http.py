"""Serve metrics, health and the status page by HTTP, read only.

The server has its own thread with its own event loop: it answers even if the agent's loop hangs, and slow, many or
malicious clients do not affect the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from .. import printable
from ..manifests.model import Problem
from ..show import allowed_hosts
from ..show.html_page import page
from ..show.metrics import Family, Observation, families
from ..show.status import status

T = TypeVar("T")
log = logging.getLogger(__name__)
RETRY_S = 1.0
"""Seconds between two attempts to listen."""
ANSWER_TIMEOUT_S = 1.0
"""Seconds that the agent's loop gets to answer."""
CONNECTION_TIMEOUT_S = 5.0
"""Seconds that a connection may last."""
MAX_REQUEST_BYTES = 8192
"""Size of a request's head."""
MAX_DRAIN_READS = 128
"""Reads of up to :data:`MAX_REQUEST_BYTES` whose data is discarded after a request."""
MAX_CONNECTIONS = 64
"""Connections at the same time. One more ends the oldest."""
TEXT = "text/plain; charset=utf-8"
NOT_OURS = (
    "is not served here: ask by an address of this node, as localhost, or by a name that metrics.names in the agent's "
    "configuration lists"
)
# The page loads no resources, and no other page may show it in a frame.
HEADERS = (
    "Cache-Control: no-store",
    "Connection: close",
    "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options: nosniff",
)


@dataclass(frozen=True)
class Answer:
    """An HTTP response. ``kind``: its Content-Type."""

    status: HTTPStatus
    text: str
    kind: str = TEXT

    def encoded(self, with_body: bool) -> bytes:
        """Return the bytes of the response. ``with_body``: False for the answer to HEAD."""
        # Problems contain names of files, which may not be valid UTF-8.
        body = self.text.encode("utf-8", "backslashreplace")
        first = f"HTTP/1.1 {self.status.value} {self.status.phrase}"
        allow = ("Allow: GET, HEAD",) if self.status is HTTPStatus.METHOD_NOT_ALLOWED else ()
        own = (f"Content-Type: {self.kind}", f"Content-Length: {len(body)}")
        head = "\r\n".join((first, *own, *HEADERS, *allow, "", "")).encode()
        return head + body if with_body else head


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
        self._told_to_end: Future[None] = Future()
        self._open: dict[asyncio.Task[object], None] = {}

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
            if not self._told_to_end.done():
                self._told_to_end.set_result(None)
            if self._thread is not None:
                self._thread.join(ANSWER_TIMEOUT_S)

    def _start(self, agent: asyncio.AbstractEventLoop) -> None:
        host, port = self._listen
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            # Not inherited by child processes or by the program of a restart in place (PEP 446).
            listener = socket.create_server((host, port), family=family)
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
        try:
            with listener:
                asyncio.run(self._until_told(listener, agent))
        except Exception as error:
            self._say(error)

    async def _until_told(self, listener: socket.socket, agent: asyncio.AbstractEventLoop) -> None:
        async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._connection(reader, writer, agent)

        self._open.clear()
        server = await asyncio.start_server(connection, sock=listener, limit=MAX_REQUEST_BYTES)
        self._say(None)
        try:
            await asyncio.wrap_future(self._told_to_end)
        finally:
            # No wait for the connections: they end with the loop.
            server.close()

    async def _connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, agent: asyncio.AbstractEventLoop
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= MAX_CONNECTIONS:
            # The oldest is the slowest: a well-behaved client is done in milliseconds.
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.cancel()
        self._open[task] = None
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                async with asyncio.timeout(self._deadline):
                    await self._converse(reader, writer, agent)
        finally:
            self._open.pop(task, None)
            writer.transport.abort()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, agent: asyncio.AbstractEventLoop
    ) -> None:
        method = b""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            answer = Answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request is too large\n")
        else:
            method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
            target, _, version = rest.partition(b" ")
            if not version.startswith(b"HTTP/1."):
                answer = Answer(HTTPStatus.BAD_REQUEST, "not HTTP/1\n")
            elif foreign := allowed_hosts.refused(head, self._names):
                answer = Answer(
                    HTTPStatus.MISDIRECTED_REQUEST, f"{printable.printable(foreign)} {NOT_OURS}\n"
                )
            else:
                answer = await _answer(method, target.partition(b"?")[0], self._look, agent)
        writer.write(answer.encoded(method != b"HEAD"))
        writer.write_eof()
        # close() with unread data would reset the connection and discard the answer.
        for _ in range(MAX_DRAIN_READS):
            if not await reader.read(MAX_REQUEST_BYTES):
                break
        writer.close()
        await writer.wait_closed()


async def _answer(
    method: bytes, path: bytes, look: Callable[[], Observation], agent: asyncio.AbstractEventLoop
) -> Answer:
    if method not in (b"GET", b"HEAD"):
        return Answer(HTTPStatus.METHOD_NOT_ALLOWED, "read only: GET and HEAD\n")
    form = PAGES.get(path)
    if form is None and path != b"/healthz":
        return Answer(HTTPStatus.NOT_FOUND, f"not here; there is /healthz {b' '.join(PAGES).decode()}\n")
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


# --- pages -----------------------------------------------------------------------------------------------------


def _metrics(seen: Observation) -> Answer:
    registry = CollectorRegistry()
    registry.register(_Families(families(seen)))
    return Answer(
        HTTPStatus.OK, generate_latest(registry).decode(), "text/plain; version=0.0.4; charset=utf-8"
    )


def _ready(seen: Observation) -> Answer:
    if seen.unready:
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{printable.printable(seen.unready)}\n")
    return Answer(HTTPStatus.OK, "ok\n")


def _status(seen: Observation) -> Answer:
    if seen.view is None:
        nothing = {"error": "the agent has not read its store yet", "hint": seen.unready}
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, json.dumps(nothing) + "\n", "application/json")
    return Answer(HTTPStatus.OK, json.dumps(status(seen.view), indent=2) + "\n", "application/json")


def _page(seen: Observation) -> Answer:
    if seen.view is None:
        why = f"the agent has not read its store yet: {printable.printable(seen.unready)}\n"
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, why)
    return Answer(HTTPStatus.OK, page(status(seen.view)), "text/html; charset=utf-8")


PAGES: dict[bytes, Callable[[Observation], Answer]] = {
    b"/": _page, b"/metrics": _metrics, b"/readyz": _ready, b"/status": _status,
}  # fmt: skip


class _Families(Collector):
    def __init__(self, found: Iterable[Family]) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        for family in self._found:
            # The library adds the suffix of counters itself.
            metric = Metric(family.name.removesuffix("_total"), family.help, family.kind)
            for sample in family.samples:
                labels = {k: _encodable(v) for k, v in sample.labels.items()}
                metric.add_sample(family.name + sample.suffix, labels, sample.value)
            yield metric


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
