"""Count the cost of agents for a server: their requests, the objects of their lists, the events of their watches."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

from aiohttp import web


class Traffic:
    """Counts, by the address of the agent and what it asked for (``METHOD PATH``, with ``(watch)`` behind it)."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)

    def asked(self, request: web.Request, question: str) -> None:
        self._count(request, "requests", question)

    def answered(self, request: web.Request, body: bytes) -> None:
        """Note the body of a good answer to a ``GET``."""
        self._count(request, "bytes", f"GET {request.path}", len(body))
        # Only a list has this, and few answers are one.
        if b'"items":' in body and isinstance(items := json.loads(body).get("items"), list):
            self._count(request, "objects", f"GET {request.path}", len(items))

    def delivered(self, request: web.Request, kind: str) -> None:
        """Note an event of a watch."""
        self._count(request, "bookmarks" if kind == "BOOKMARK" else "events", f"GET {request.path} (watch)")

    def table(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return the counts: by agent, then ``requests``, ``bytes``, ``objects``, ``events`` or ``bookmarks``."""
        found: dict[str, dict[str, dict[str, int]]] = defaultdict(dict)
        for name, counts in self._counts.items():
            agent, what = name.split(" ", 1)
            found[agent][what] = dict(counts)
        return found

    def _count(self, request: web.Request, what: str, question: str, number: int = 1) -> None:
        self._counts[f"{request.remote} {what}"][question] += number
