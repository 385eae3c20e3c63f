"""Search the files of the log."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from . import lines
from .log_file import files
from .sightings import Query, Sighting, matches

CHUNK_BYTES = 1 << 20
"""Bytes that are searched at once: a search holds Python's interpreter lock, reading does not."""
MAX_LINE_BYTES = 4096
MAX_LINES = 20_000
"""Largest number of lines that one search reads: over time, an address and port have many connections."""


def search(path: Path, keep: int, query: Query) -> list[Sighting]:
    """Return the sightings in a log that match a query. Blocks. Raises OSError if a file cannot be read."""
    pattern = lines.by_tunnel(query.end) if query.inside else lines.by_egress(query.end)
    found: list[Sighting] = []
    for file in files(path, keep):
        for sighting in seen(query, _lines_with(file, pattern)):
            found.append(sighting)
            if len(found) >= MAX_LINES:
                return found
    return found


def seen(query: Query, found: Iterable[bytes]) -> Iterator[Sighting]:
    """Yield the sightings of lines that a question is about."""
    for line in found:
        read = lines.read(line)
        if read is not None and matches(query, read[1].half):
            seconds, record, by = read
            yield Sighting(record.event, seconds, record.half, record.bytes_out, record.bytes_in, by)


def _lines_with(path: Path, pattern: bytes) -> Iterator[bytes]:
    """Yield the lines of a file that contain these bytes; none if there is no such file."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        rest = b""
        while chunk := os.read(file.fileno(), CHUNK_BYTES):
            text = rest + chunk
            whole = text.rfind(b"\n") + 1
            rest = text[whole:] if len(text) - whole <= MAX_LINE_BYTES else b""
            place = text.find(pattern, 0, whole)
            while place >= 0:
                begin, end = text.rfind(b"\n", 0, place) + 1, text.find(b"\n", place)
                yield text[begin:end]
                place = text.find(pattern, end, whole)
