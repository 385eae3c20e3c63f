"""Waiting for something to come true, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class NotInTime(AssertionError):
    """What was waited for did not happen before the deadline."""


def until(condition: Callable[[], T | None], what: str, seconds: float = 10.0) -> T:
    """Calls ``condition`` until it gives something true, and returns that.

    ``OSError`` counts as *not yet*: sockets that nobody listens on, routes that do not stand.
    Raises :class:`NotInTime` with ``what`` after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    last: object = None
    while True:
        try:
            result = condition()
            last = result
        except OSError as error:
            result, last = None, error
        if result:
            return result
        if time.monotonic() > deadline:
            raise NotInTime(f"not within {seconds:g} s: {what} (last: {last!r})")
        time.sleep(0.01)
