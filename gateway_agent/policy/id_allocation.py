"""Allocate small numbers (mark bits) to keys, stable across plans."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from itertools import chain
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


def assign(keys: Iterable[K], before: Mapping[K, int], highest: int) -> dict[K, int]:
    """Return a number from 1 to ``highest`` for each key; keys without a number left are missing.

    A key that had a number ``before`` keeps it. A number that was in use ``before`` is reused last: packets and
    connections with its mark may still exist.
    """
    wanted = list(keys)
    numbers = {key: before[key] for key in wanted if key in before}
    taken, used_before = set(numbers.values()), set(before.values())
    # A list would be too long: there may be a billion numbers.
    known = taken | used_before
    fresh = (number for number in range(1, highest + 1) if number not in known)
    free = chain(fresh, sorted(number for number in used_before - taken if number <= highest))
    numbers.update(zip((key for key in wanted if key not in numbers), free, strict=False))
    return numbers
