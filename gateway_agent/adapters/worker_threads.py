"""Threads beside the event loop, for what blocks or computes for long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class WorkerThreads:
    """Any number of calls at once, each in a thread of the event loop's pool."""

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function in another thread and return its result. Raises what it raises."""
        return await asyncio.to_thread(function, *args, **kwargs)
