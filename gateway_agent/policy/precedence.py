"""Decide which policy a packet follows: by definition (:func:`lookup`), and as disjoint prefixes for the kernel."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cni.plan import Destination

from ..manifests import prefixes
from ..manifests.model import seniority
from ..manifests.prefixes import Family, Span

EVERYWHERE = ("0.0.0.0/0", "::/0")
RESERVED: Mapping[str, str] = {
    "0.0.0.0/8": "this network",
    "127.0.0.0/8": "loopback",
    "169.254.0.0/16": "link-local",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved, and broadcast",
    "::/128": "the unspecified address",
    "::1/128": "loopback",
    "fe80::/10": "link-local",
    "ff00::/8": "multicast",
}
"""Prefixes that no router forwards (RFC 6890, RFC 4291), with the reason."""


@dataclass(frozen=True)
class Entry:
    """The destinations of a policy. No destination means every address."""

    name: str
    egress_id: str
    destinations: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    created: str = ""
    """RFC 3339, UTC; an empty text sorts after every time."""
    egress_id6: str = ""
    """Egress IP of IPv6 packets; empty: the same as for IPv4 packets."""

    def leads_to(self, family: int) -> str:
        """Return the id of the egress IP for packets of this family, 4 or 6."""
        return (family == 6 and self.egress_id6) or self.egress_id

    @property
    def seniority(self) -> tuple[bool, str, str]:
        """Return the sort key by which the oldest policy comes first and wins."""
        return seniority(self.created, self.name)


class Match(NamedTuple):
    """The policy that a packet follows, and the destination that decided it."""

    entry: Entry
    prefix: str
    """The longest destination of the policy that contains the address."""


def never_sent(cluster_cidrs: Iterable[str], node_addresses: Iterable[str]) -> dict[str, str]:
    """Return the prefixes that no policy can steer to a gateway, each with the reason."""
    found = dict(RESERVED)
    found.update((cidr, "cluster network") for cidr in cluster_cidrs)
    found.update((prefixes.host(address), "address of a node") for address in node_addresses)
    return found


def holding(texts: Iterable[str], address: str) -> str | None:
    """Return the longest of these prefixes that contains ``address``; None if there is none."""
    family, number = prefixes.number(address)
    holders = [
        (span.length, text)
        for text, span in ((text, prefixes.span(text)) for text in texts)
        if span.family == family and span.first <= number <= span.last
    ]
    return max(holders)[1] if holders else None


def lookup(entries: Iterable[Entry], never: Iterable[str], address: str) -> Match | None:
    """Return the policy that a packet to ``address`` follows; None if it is not steered. This is the definition.

    Candidates are the policies with a destination and without an exclusion that contains the address. The policy with
    the longest such destination wins, then the older one, then by name. If a prefix of ``never`` contains the
    address, the packet is not steered.
    """
    if holding(never, address):
        return None
    matches = [
        Match(entry, prefix)
        for entry in entries
        if (prefix := holding(entry.destinations or EVERYWHERE, address)) is not None
        and not holding(entry.excluded, address)
    ]
    return min(matches, key=lambda m: (-prefixes.span(m.prefix).length, m.entry.seniority), default=None)


def disjoint(entries: Sequence[Entry], never: Iterable[str]) -> tuple[Destination, ...]:
    """Return the result of :func:`lookup` for all addresses: the fewest disjoint prefixes, ascending, IPv4 first.

    The algorithm sweeps over the boundaries of all prefixes: between two boundaries the result does not change.
    """
    ordered = sorted(entries, key=lambda entry: entry.seniority)
    banned = [prefixes.span(text) for text in never]
    destinations: list[Destination] = []
    for family in prefixes.WIDTH:
        for first, last, egress_id in _ranges(ordered, banned, family):
            destinations += [Destination(prefix, egress_id) for prefix in prefixes.cover(family, first, last)]
    return tuple(destinations)


class _Edge(NamedTuple):
    """A boundary of a prefix. ``rank``: index of its entry in order of seniority, -1 for prefixes of ``never``."""

    begins: bool
    rank: int
    excludes: bool
    length: int


def _ranges(
    ordered: Sequence[Entry], banned: Sequence[Span], family: Family
) -> Iterator[tuple[int, int, str]]:
    """Yield the ranges ``(first, last, egress id)`` that are steered, ascending, adjacent ranges joined."""
    edges = _edges(ordered, banned, family)
    points = sorted(edges)
    open_at: dict[int, list[int]] = {}
    closed: Counter[int] = Counter()
    start, current = 0, ""
    for point in points:
        for edge in edges[point]:
            _cross(edge, open_at, closed)
        winner = _winner(ordered, open_at, closed, family)
        if winner != current:
            if current:
                yield start, point - 1, current
            start, current = point, winner


def _edges(ordered: Sequence[Entry], banned: Sequence[Span], family: Family) -> dict[int, list[_Edge]]:
    edges: dict[int, list[_Edge]] = {}

    def add(spans: Iterable[Span], rank: int, excludes: bool) -> None:
        for span in set(spans):
            if span.family == family:
                edges.setdefault(span.first, []).append(_Edge(True, rank, excludes, span.length))
                edges.setdefault(span.last + 1, []).append(_Edge(False, rank, excludes, span.length))

    add(banned, -1, True)
    for rank, entry in enumerate(ordered):
        add(map(prefixes.span, entry.destinations or EVERYWHERE), rank, False)
        add(map(prefixes.span, entry.excluded), rank, True)
    return edges


def _cross(edge: _Edge, open_at: dict[int, list[int]], closed: Counter[int]) -> None:
    """Update the state of the sweep at one boundary.

    ``open_at``: for each prefix length the ranks with a destination of that length around the point. A point lies in
    exactly one prefix of each length, so the length identifies the prefix. ``closed``: for each rank the number of
    exclusions around the point.
    """
    if edge.excludes:
        closed[edge.rank] += 1 if edge.begins else -1
    elif edge.begins:
        insort(open_at.setdefault(edge.length, []), edge.rank)
    else:
        open_at[edge.length].remove(edge.rank)


def _winner(
    ordered: Sequence[Entry], open_at: dict[int, list[int]], closed: Counter[int], family: Family
) -> str:
    if closed[-1]:
        return ""
    for length in sorted(open_at, reverse=True):
        for rank in open_at[length]:
            if not closed[rank]:
                return ordered[rank].leads_to(family)
    return ""
