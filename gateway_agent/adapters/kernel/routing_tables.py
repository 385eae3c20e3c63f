"""Read the names of routing tables on this node, as ``ip`` does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

DIRECTORIES = (Path("/usr/share/iproute2"), Path("/etc/iproute2"))
"""Directories of iproute2's configuration; the later one counts."""


def names(directories: Iterable[Path] = DIRECTORIES) -> dict[str, int]:
    """Return the numbers of routing tables by name. Unreadable files and lines without a number are left out."""
    found: dict[str, int] = {}
    for directory in directories:
        files = [directory / "rt_tables", *sorted((directory / "rt_tables.d").glob("*.conf"))]
        for file in files:
            with contextlib.suppress(OSError):
                found |= _parsed(file.read_text(encoding="utf-8", errors="replace"))
    return found


def _parsed(text: str) -> dict[str, int]:
    """Return the tables of one file: a number and a name in each line, and comments."""
    found = {}
    for line in text.splitlines():
        number, _, name = line.partition("#")[0].strip().replace("\t", " ").partition(" ")
        with contextlib.suppress(ValueError):
            found[name.strip()] = int(number, 0)
    found.pop("", None)
    return found
