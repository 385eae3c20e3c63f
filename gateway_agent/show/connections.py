"""Show the connections that ``egressctl whois`` has found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..connection_log.halves import End
from ..connection_log.lines import written
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
    half = one.half
    return {
        "start": None if one.start is None else written(one.start),
        "end": None if one.end is None else written(one.end),
        "open": one.is_open,
        "gateway": half.gateway,
        **_end("egressIP", "egressPort", half.shown),
        "protocol": half.protocol,
        **_end("destination", "destinationPort", half.destination),
        "namespace": half.pod[0],
        "pod": half.pod[1],
        **_end("podAddress", "podPort", half.pod_end),
        "node": half.node,
        **_end("nodeAddress", "nodePort", half.inside),
        "bytesOut": one.bytes_out if one.bytes_out >= 0 else None,
        "bytesIn": one.bytes_in if one.bytes_in >= 0 else None,
        "by": one.by,
    }


def _end(address: str, port: str, end: End) -> dict[str, Any]:
    return {address: end[0], port: end[1] or None}
