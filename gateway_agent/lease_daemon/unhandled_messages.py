"""Report messages that the lease daemon could not handle: as a problem for a while, and in the log."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .process import boottime, log

REPORT_NS = 1_000_000_000
"""Shortest time between two log lines about messages that could not be handled."""
UNHANDLED_NS = 600_000_000_000
"""Time for which a message that could not be handled is a problem. The log keeps it for longer."""


class UnhandledMessages:
    """The last message that could not be handled."""

    def __init__(self) -> None:
        self._last = ("", -UNHANDLED_NS)
        """The problem, and the time at which the message arrived."""
        self._logged_at = -REPORT_NS

    @contextlib.contextmanager
    def reported(self, source: str) -> Iterator[None]:
        """Report an exception that a message from ``source`` causes: one bug must not end the daemons of all nodes.

        A node that has the key can send any message. Decisions made before the exception are carried out with the next
        input; docs/design/messages.md says why that is safe.
        """
        try:
            yield
        except Exception as error:
            self._add(error, source, boottime())

    def problem(self, now: int) -> str:
        """Return the problem of the last such message; empty if there was no such message for long."""
        text, at = self._last
        return text if now < at + UNHANDLED_NS else ""

    def _add(self, error: Exception, source: str, now: int) -> None:
        text = f"a message from {source} could not be handled"
        if now >= self._logged_at + REPORT_NS:
            self._logged_at = now
            log(error, text)
        self._last = f"{text}: {type(error).__name__}: {error}", now
