"""Compare the exits of one pod's packets in two plans. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network, summarize_address_range

Exits = Mapping[str, str]
"""Names of exits by destination prefix; the prefixes are disjoint."""
DIRECT = "direct"
"""Name of the exit of addresses that no prefix contains: as if there were no policy."""
KINDS: Mapping[int, type[IPv4Address] | type[IPv6Address]] = {4: IPv4Address, 6: IPv6Address}


@dataclass(frozen=True)
class Change:
    """Destinations whose exit differs: the addresses from ``first`` to ``last``, as numbers of one IP version."""

    version: int
    first: int
    last: int
    before: str
    after: str

    def concerns(self, address: str) -> bool:
        """Return True if the address is among the destinations."""
        parsed = ip_address(address)
        return parsed.version == self.version and self.first <= int(parsed) <= self.last

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Return the prefixes that together hold these destinations."""
        kind = KINDS[self.version]
        return tuple(map(str, summarize_address_range(kind(self.first), kind(self.last))))


def changes(before: Exits, after: Exits) -> tuple[Change, ...]:
    """Return the destinations whose exit differs, in the order of addresses."""
    return tuple(
        change
        for version in KINDS
        for change in _joined(_pieces(version, before, after))
        if change.before != change.after
    )


def _pieces(version: int, before: Exits, after: Exits) -> Iterator[Change]:
    """Yield the whole address space in pieces, cut at each border of a prefix."""
    starts: dict[int, list[tuple[int, str]]] = {}
    for side, known in enumerate((before, after)):
        for prefix, name in known.items():
            network = ip_network(prefix)
            if network.version == version:
                # A prefix that begins at the end of another one is sorted after that end, so its name is kept.
                starts.setdefault(int(network.broadcast_address) + 1, []).insert(0, (side, DIRECT))
                starts.setdefault(int(network.network_address), []).append((side, name))
    end = 1 << KINDS[version](0).max_prefixlen
    names, first = [DIRECT, DIRECT], 0
    for border in sorted({*starts, end}):
        if border > first:
            yield Change(version, first, border - 1, names[0], names[1])
            first = border
        for side, name in starts.get(border, ()):
            names[side] = name


def _joined(pieces: Iterator[Change]) -> Iterator[Change]:
    """Yield the pieces, with neighbours joined if their exits are the same."""
    last = next(pieces)
    for piece in pieces:
        if (piece.before, piece.after) == (last.before, last.after):
            last = Change(last.version, last.first, piece.last, last.before, last.after)
        else:
            yield last
            last = piece
    yield last
