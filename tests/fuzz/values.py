"""Values that no field expects, and every place of a document to put one."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator
from typing import Any

Path = tuple[str | int, ...]


def _nested(depth: int) -> Any:
    value: Any = "x"
    for level in range(depth):
        value = [value] if level % 2 else {"x": value}
    return value


HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, float("nan"), float("inf"), 2**31, 2**63, 2**64, 10**40,
    "", " ", "a" * 254, "a" * 100_000, "\0", "\x1b[2J\x07", "\ud800", "\u202eevil", "../../x", "a/b", "${x}", "%s%n",
    "9" * 5000, "9" * 400 + "s", "10.0.0.0/" + "9" * 5000, "10.0.0.0/-1", "::/129", "fe80::1%eth0", "127.0.0.1",
    "0.0.0.0/0", "1e3", "0x7f.1", "9999-99-99T99:99:99Z", "0001-01-01T00:00:00+23:59",
    [], {}, [[]], [None], [{}], ["x"] * 5000, {"": ""}, {"a": {"b": ["c"]}}, {1: 2}, {None: None}, {True: []},
    {1.5: "x"}, _nested(200), b"bytes", {"x"}, (1, 2),
)  # fmt: skip


def places(document: Any, at: Path = ()) -> Iterator[Path]:
    """Yield the path of every value in a document, that of the document itself first."""
    yield at
    items: Iterable[tuple[Any, Any]] = document.items() if isinstance(document, dict) else ()
    items = enumerate(document) if isinstance(document, list) else items
    for key, value in items:
        yield from places(value, (*at, key))


def put(document: Any, at: Path, value: Any) -> Any:
    """Return a copy of ``document`` with ``value`` at this place."""
    if not at:
        return value
    changed = copy.deepcopy(document)
    holder = changed
    for key in at[:-1]:
        holder = holder[key]
    holder[at[-1]] = value
    return changed


def mutated(document: Any, rng: random.Random) -> Any:
    """Return ``document`` with one to three hostile values in it, or with an unknown field."""
    for _ in range(rng.randint(1, 3)):
        found = list(places(document))
        at = rng.choice(found)
        value = rng.choice(HOSTILE)
        if rng.random() < 0.1:
            at, value = (
                (*rng.choice([p for p in found if isinstance(_at(document, p), dict)] or [()]), "x"),
                value,
            )
            if not isinstance(_at(document, at[:-1]), dict):
                continue
        document = put(document, at, value)
    return document


def _at(document: Any, at: Path) -> Any:
    for key in at:
        document = document[key]
    return document
