"""Answer one HTTP request, at once or by a stream of events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)

from ...show.page import html_page
from .metrics_answers import Answer

# The page loads no resources, runs its own script only, and no other page may show it in a frame.
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": html_page.POLICY,
    "X-Content-Type-Options": "nosniff",
}
EVENTS = "/events"
"""Path of the stream of changes of the page."""
Responder = Callable[[RequestStartLine, HTTPHeaders], Awaitable[Answer]]


class Request(HTTPMessageDelegate):
    """One request, whose answer is sent after its body was read: before that, a reset could overtake the answer."""

    def __init__(
        self, connection: HTTPConnection, respond: Responder, stream: Callable[[HTTPConnection], None]
    ) -> None:
        """``stream``: sends events instead of an answer."""
        self._connection = connection
        self._respond = respond
        self._stream = stream
        self._events = False
        self._method = ""
        self._answer: Answer | None = None

    async def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> None:
        """Compute the answer. The end of the client's data is not read meanwhile: it would end the connection."""
        assert isinstance(start_line, RequestStartLine)
        self._method = start_line.method
        self._events = start_line.path.partition("?")[0] == EVENTS and self._method == "GET"
        self._answer = await self._respond(start_line, headers)

    def finish(self) -> None:
        """Send the answer. The connection ends when it is sent, or at the deadline."""
        answer = self._answer
        assert answer is not None
        if self._events and answer.status is HTTPStatus.OK:
            self._stream(self._connection)
            return
        fields = {"Content-Type": answer.kind, "Content-Length": str(len(answer.body)), **HEADERS}
        if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
            fields["Allow"] = "GET, HEAD"
        line = ResponseStartLine("HTTP/1.1", answer.status.value, answer.status.phrase)
        body = b"" if self._method == "HEAD" else answer.body
        self._connection.write_headers(line, HTTPHeaders(fields), body)
        self._connection.finish()
