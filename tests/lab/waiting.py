"""Waiting for something to come true, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE_S = 60.0
"""Seconds where no other time is given: long enough for a machine that runs other labs beside."""
POLL_S = (0.01, 0.05)
"""Seconds between two looks, at the beginning and at most."""
POLL_SHARE = 0.05
"""Share of the time waited already by which a look may come late: each look costs processor time."""


class NotInTime(AssertionError):
    """What was waited for did not happen before the deadline."""


def until(condition: Callable[[], T | None], what: str, seconds: float = PATIENCE_S) -> T:
    """Call ``condition`` until it gives something true, and returns that.

    ``OSError`` counts as *not yet*: sockets on which no program listens, routes that are not there.
    Raises :class:`NotInTime` with ``what`` after ``seconds``.
    """
    began = time.monotonic()
    deadline = began + seconds
    last: object = None
    while True:
        try:
            result = condition()
            last = result
        except OSError as error:
            result, last = None, error
        if result:
            return result
        now = time.monotonic()
        if now > deadline:
            raise NotInTime(f"not within {seconds:g} s: {what} (last: {last!r})")
        time.sleep(min(max(POLL_S[0], POLL_SHARE * (now - began)), POLL_S[1]))
