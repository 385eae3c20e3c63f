"""Cache the result of a function for each immutable object. Pure.

An edit changes few parts of an inventory, and :func:`gateway_agent.manifests.sharing.sharing` keeps the other parts the
same objects: results for thousands of nodes are computed once, not in each round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")
MAX_KEPT = 4
"""Objects whose results are cached: the inventory, the previous one, and both without objects that cannot be planned.
"""


class Kept(Generic[T, R]):
    """A function of one immutable object, with its last results. Objects are compared by identity.

    The results are immutable, too. Concurrent calls of threads are safe: at worst, both compute the result.
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
