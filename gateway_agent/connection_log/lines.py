"""Encode and decode the lines of the log: one JSON object each. Pure.

The order of the fields is fixed, so that a search for the bytes of two neighbouring fields finds the lines.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from .halves import End, Half
from .recorder import Record

EGRESS = re.compile(rb'"egressIP":"([^"\\]*)","egressPort":([0-9]+)')
TUNNEL = re.compile(rb'"nodeAddress":"([^"\\]*)","nodePort":([0-9]+)')
ENCODER = json.JSONEncoder(separators=(",", ":"))


def line(seconds: float, by: str, record: Record) -> bytes:
    """Return the line of a record. ``seconds``: Unix time. ``by``: name of the node that writes it."""
    return (ENCODER.encode(fields(seconds, by, record)) + "\n").encode()


def fields(seconds: float, by: str, record: Record) -> dict[str, Any]:
    """Return the fields of a line. Unknown or uncounted values are null."""
    return {
        "time": written(seconds),
        "event": record.event,
        **of_half(record.half),
        **of_bytes(record.bytes_out, record.bytes_in),
        "by": by,
    }


def of_half(half: Half) -> dict[str, Any]:
    """Return the fields of what a node, or two, know of a connection; unknown ports are null."""
    return {
        "gateway": half.gateway,
        **_end("egressIP", "egressPort", half.shown),
        "protocol": half.protocol,
        **_end("destination", "destinationPort", half.destination),
        "namespace": half.pod[0],
        "pod": half.pod[1],
        "node": half.node,
        **_end("nodeAddress", "nodePort", half.inside),
        **_end("podAddress", "podPort", half.pod_end),
    }


def of_bytes(bytes_out: int, bytes_in: int) -> dict[str, int | None]:
    """Return the fields of the bytes of a connection; those that were not counted (-1) are null."""
    return {
        "bytesOut": bytes_out if bytes_out >= 0 else None,
        "bytesIn": bytes_in if bytes_in >= 0 else None,
    }


def _end(address: str, port: str, end: End) -> dict[str, Any]:
    return {address: end[0], port: end[1] or None}


def by_egress(end: End) -> bytes:
    """Return bytes that every line about this address and port outside contains."""
    return _bytes(_end("egressIP", "egressPort", end))


def by_tunnel(end: End) -> bytes:
    """Return bytes that every line about this address and port after the worker's source NAT contains."""
    return _bytes(_end("nodeAddress", "nodePort", end))


def ends(line: bytes) -> tuple[bytes, bytes]:
    """Return both ends of a line as ``ADDRESS PORT``: outside, and inside the tunnel. What is not known is empty."""
    shown, inside = (
        b" ".join(found.groups()) if (found := end.search(line)) else b"" for end in (EGRESS, TUNNEL)
    )
    return shown, inside


def _bytes(found: dict[str, Any]) -> bytes:
    return ENCODER.encode(found)[1:-1].encode()


def read(text: bytes) -> tuple[float, Record, str] | None:
    """Return the Unix time, record and writing node of a line; None if it is no line of this log."""
    try:
        found = json.loads(text)
        half = Half(
            str(found["gateway"]),
            _read_end(found, "egressIP", "egressPort"),
            str(found["protocol"]),
            _read_end(found, "destination", "destinationPort"),
            str(found["node"]),
            _read_end(found, "nodeAddress", "nodePort"),
            (str(found["namespace"]), str(found["pod"])),
            _read_end(found, "podAddress", "podPort"),
        )
        out, back = (-1 if found[name] is None else int(found[name]) for name in ("bytesOut", "bytesIn"))
        seconds = datetime.fromisoformat(found["time"]).timestamp()
        return seconds, Record(str(found["event"]), half, out, back), str(found["by"])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None


def _read_end(found: dict[str, Any], address: str, port: str) -> End:
    return str(found[address]), int(found[port] or 0)


def written(seconds: float) -> str:
    """Return Unix time as RFC 3339 text in UTC, to the millisecond."""
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03d}Z"


@lru_cache(maxsize=8)
def _second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
