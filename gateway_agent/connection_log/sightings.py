"""Join sightings of several nodes, in tables and logs, to connections. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from .halves import UNKNOWN_END, UNKNOWN_POD, End, Half
from .recorder import END, START

OPEN = "open"
"""The event of a connection that is in the kernel's table now."""
MAX_SIGHTINGS = 400
"""Largest number of sightings in one answer: those nearest to the requested time."""
SLACK_S = 5.0
"""Largest difference, seconds, of two nodes' times of one event: clocks differ, and lines are delayed under load."""


class Query(msgspec.Struct, frozen=True):
    """A query to one node."""

    end: End
    """Address and port, outside or after the worker's source NAT."""
    inside: bool = False
    """True if ``end`` is the source after the worker's source NAT."""
    to: End | None = None
    """The destination. Port 0: any."""
    protocol: str = ""
    """Empty: any."""
    at: float | None = None
    """Unix time; None: now, and the last ones before."""


class Sighting(msgspec.Struct, frozen=True):
    """One line of a log, or one entry of a connection table."""

    event: str
    seconds: float
    """Unix time."""
    half: Half
    bytes_out: int
    bytes_in: int
    by: str
    """Name of the node."""


class Connection(msgspec.Struct, frozen=True):
    """A connection, from the sightings of one or two nodes."""

    half: Half
    by: str
    """Name of the node that has the egress IP, or of the only one that has seen the connection."""
    start: float | None = None
    """Unix time; None: not known."""
    end: float | None = None
    """Unix time; None: it is open, or it is not known."""
    is_open: bool = False
    bytes_out: int = -1
    bytes_in: int = -1

    def was_open_at(self, seconds: float) -> bool:
        """Return True unless the connection was certainly not open at this time."""
        before = self.start is not None and seconds < self.start - SLACK_S
        return not before and not (self.end is not None and seconds > self.end + SLACK_S)


def matches(query: Query, half: Half) -> bool:
    """Return True if the query matches this connection."""
    if query.end != (half.inside if query.inside else half.shown):
        return False
    to = query.to
    there = to is None or (to[0] == half.destination[0] and to[1] in (0, half.destination[1]))
    return there and query.protocol in ("", half.protocol)


def nearest(query: Query, found: Iterable[Sighting]) -> list[Sighting]:
    """Return the sightings that match the query, as many as fit an answer."""
    wanted = [each for each in found if matches(query, each.half)]
    at = math.inf if query.at is None else query.at
    wanted.sort(key=lambda each: abs(each.seconds - at) if query.at is not None else -each.seconds)
    return wanted[:MAX_SIGHTINGS]


def connections(found: Iterable[Sighting]) -> list[Connection]:
    """Return the connections of these sightings, the newest first. Each pairs a start with its end."""
    by_key: dict[tuple[str, Half], list[Sighting]] = {}
    for each in found:
        by_key.setdefault((each.by, each.half), []).append(each)
    paired = [one for (by, half), events in by_key.items() for one in _paired(by, half, events)]
    return sorted(paired, key=lambda one: (one.is_open, one.start or one.end or 0.0), reverse=True)


def _paired(by: str, half: Half, events: Sequence[Sighting]) -> list[Connection]:
    """Return the connections of one node with the same ends: one after the other."""
    done: list[Connection] = []
    begun: float | None = None
    pending = False
    # Lines of one time are in the order in which they were written.
    for each in sorted(events, key=lambda each: (each.event == OPEN, each.seconds)):
        if each.event == START:
            if pending:
                done.append(Connection(half, by, begun))
            begun, pending = each.seconds, True
            continue
        ended = each.seconds if each.event == END else None
        done.append(Connection(half, by, begun, ended, each.event == OPEN, each.bytes_out, each.bytes_in))
        begun, pending = None, False
    return [*done, Connection(half, by, begun)] if pending else done


def worker_query(found: Connection) -> Query | None:
    """Return the query to the worker of a connection; None if the pod is known, or no worker is."""
    half = found.half
    if half.pod != UNKNOWN_POD or half.inside == UNKNOWN_END:
        return None
    at = found.start if found.start is not None else found.end
    return Query(half.inside, True, half.destination, half.protocol, None if found.is_open else at)


def joined(outer: Connection, inner: Iterable[Connection]) -> Connection:
    """Return the master's half, joined with the worker's half among ``inner``; unchanged if there is none."""
    same = [one for one in inner if one.half.tunnel_key == outer.half.tunnel_key and _overlap(outer, one)]
    if not same:
        return outer
    best = min(same, key=lambda one: _apart(outer, one))
    ours = outer.half._replace(pod=best.half.pod, pod_end=best.half.pod_end, node=best.half.node)
    return msgspec.structs.replace(
        outer,
        half=ours,
        start=outer.start if outer.start is not None else best.start,
        bytes_out=max(outer.bytes_out, best.bytes_out),
        bytes_in=max(outer.bytes_in, best.bytes_in),
    )


def _overlap(one: Connection, other: Connection) -> bool:
    first, second = ((each.start or 0.0, math.inf if each.end is None else each.end) for each in (one, other))
    return first[0] <= second[1] + SLACK_S and second[0] <= first[1] + SLACK_S


def _apart(one: Connection, other: Connection) -> float:
    """Return the difference of two nodes' times of the same event, seconds."""
    for first, second in ((one.start, other.start), (one.end, other.end)):
        if first is not None and second is not None:
            return abs(first - second)
    return 0.0 if one.is_open and other.is_open else SLACK_S
