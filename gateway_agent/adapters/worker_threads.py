"""Run functions that block, or compute for long, in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class WorkerThreads:
    """The event loop's pool of threads; any number of calls at once."""

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function in another thread and return its result. Raises what it raises."""
        return await asyncio.to_thread(function, *args, **kwargs)
