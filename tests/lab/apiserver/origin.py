"""What stands behind the front: where objects are, and who answers for them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from aiohttp import web

Object = dict[str, Any]
Event = tuple[str, Object]
"""Type and object of a watch event."""


class Refused(Exception):
    """A ``Status`` answer."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message

    @property
    def status(self) -> Object:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": self.code,
            "reason": self.reason,
            "message": self.message,
        }


class Origin(Protocol):
    """``own``: the test itself asks, not an agent. Raises :class:`Refused`."""

    async def start(self) -> None:
        """Make it ready, with no objects but those that each cluster has."""

    async def answer(self, request: web.Request, *, own: bool) -> web.StreamResponse:
        """To everything but a watch."""

    async def watch(self, request: web.Request, *, own: bool) -> AsyncGenerator[Event]:
        """Return the events of a watch that is taken."""

    async def compact(self) -> None:
        """Forgets the history: lists that were begun and watches from older versions expire."""

    async def close(self) -> None: ...
