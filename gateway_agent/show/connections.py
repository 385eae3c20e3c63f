"""Show the connections that ``egressctl whois`` has found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..connection_log import lines
from ..connection_log.sightings import Connection, Query


def answer(
    query: Query, found: Iterable[Connection], silent: Mapping[str, str], logged: bool
) -> dict[str, Any]:
    """Return the answer of ``egressctl whois -o json``.

    ``silent``: nodes that did not answer, with the reasons. ``logged``: True if this node has a log.
    """
    return {
        "ip": query.end[0],
        "port": query.end[1],
        "connections": [_shown(one) for one in found],
        "silent": [{"node": name, "reason": reason} for name, reason in sorted(silent.items())],
        "log": logged,
    }


def _shown(one: Connection) -> dict[str, Any]:
    return {
        "start": None if one.start is None else lines.written(one.start),
        "end": None if one.end is None else lines.written(one.end),
        "open": one.is_open,
        **lines.of_half(one.half),
        **lines.of_bytes(one.bytes_out, one.bytes_in),
        "by": one.by,
    }
