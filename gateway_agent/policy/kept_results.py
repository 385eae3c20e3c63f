"""Keep what was worked out of an immutable object, as long as the same object comes again. Pure.

An edit leaves most parts of an inventory as they are, and :func:`gateway_agent.manifests.sharing.sharing` keeps these
the same objects: what follows from thousands of nodes is worked out once, not in each round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")
MAX_KEPT = 4
"""Objects whose results one function keeps: the inventory, the last one, and those without what cannot be planned."""


class Kept(Generic[T, R]):
    """A function of one immutable object, with its last results. An equal object that is another one is a new one.

    The results are immutable too. Threads may call it at the same time: at worst, both work.
    """

    def __init__(self, function: Callable[[T], R]) -> None:
        self._function = function
        self._kept: tuple[tuple[T, R], ...] = ()

    def __call__(self, of: T) -> R:
        """Return the function's result."""
        for known, result in self._kept:
            if known is of:
                return result
        result = self._function(of)
        self._kept = ((of, result), *self._kept[: MAX_KEPT - 1])
        return result
