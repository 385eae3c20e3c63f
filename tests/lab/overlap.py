"""Who spoke for an address, and when: what a capture says about owners."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

INTERVAL_MS = 0.5
"""Milliseconds between two attempts of an observer."""
SHORT_SILENCE_MS = 5.0
"""Milliseconds. A node that is silent for less never ceased to be the owner."""
_MS = 1_000_000


@dataclass(frozen=True)
class Frame:
    """``node`` put a frame on the wire that speaks for ``address``."""

    at: int
    """Nanoseconds since 1970, by the kernel that all nodes of a lab share."""
    node: str
    address: str
    kind: str = "probe"
    """Kind of frame, see :func:`tests.lab.frames.speaker`."""


@dataclass(frozen=True)
class Tenure:
    """``node`` spoke for ``address`` from ``first`` to ``last`` (ns) without a pause of :data:`SHORT_SILENCE_MS`."""

    address: str
    node: str
    first: int
    last: int


@dataclass(frozen=True)
class Overlap:
    """Two nodes could speak for one address. ``first`` is the one that could before."""

    address: str
    first: str
    second: str
    milliseconds: float
    """Milliseconds from the first to the last instant at which both were seen; at least :data:`INTERVAL_MS`."""
    at: int
    """Beginning of the overlap, ns."""


@dataclass(frozen=True)
class Takeover:
    """An address changed hands."""

    address: str
    old: str
    new: str
    at: int
    """Time of the new owner's first frame, ns."""
    gap: float
    """Milliseconds in which no node spoke; negative: both did."""


class Tenures:
    """Tenures as frames come in, for runs that are too long to keep every frame."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], list[Tenure]] = defaultdict(list)
        self._latest: dict[tuple[str, str], list[int]] = {}
        """First and last frame of the current tenure."""

    def add(self, at: int, node: str, address: str) -> None:
        """Add a frame, ``at`` in ns. Frames of one node must be added in order of time."""
        latest = self._latest.get((address, node))
        if latest is not None and at - latest[1] < SHORT_SILENCE_MS * _MS:
            latest[1] = at
            return
        if latest is not None:
            self._rows[address, node].append(Tenure(address, node, *latest))
        self._latest[address, node] = [at, at]

    def all(self) -> list[Tenure]:
        """By address, then in the order of their beginnings."""
        latest = [Tenure(address, node, *times) for (address, node), times in self._latest.items()]
        return sorted(
            [*(tenure for row in self._rows.values() for tenure in row), *latest],
            key=lambda tenure: (tenure.address, tenure.first, tenure.node),
        )

    def owners(self, window: float, end: int) -> dict[str, tuple[str, ...]]:
        """As :func:`owner_at_end`; without looking at each frame."""
        found: dict[str, list[str]] = defaultdict(list)
        for (address, node), (_, last) in self._latest.items():
            found[address] += [node] if last > end - window * _MS else []
        return {address: tuple(sorted(nodes)) for address, nodes in found.items()}


def tenures(frames: Iterable[Frame]) -> list[Tenure]:
    """By address, then in the order of their beginnings."""
    found = Tenures()
    for frame in sorted(frames, key=lambda frame: frame.at):
        found.add(frame.at, frame.node, frame.address)
    return found.all()


def overlaps(frames: Iterable[Frame]) -> list[Overlap]:
    """Every time that two nodes spoke for one address; nothing where all is well."""
    return overlaps_among(tenures(frames))


def overlaps_among(ordered: Iterable[Tenure]) -> list[Overlap]:
    """As :func:`overlaps`, of what :func:`tenures` gives."""
    found = []
    speaking: list[Tenure] = []
    for tenure in ordered:
        speaking = [s for s in speaking if s.address == tenure.address and s.last >= tenure.first]
        for other in speaking:
            both = (min(other.last, tenure.last) - tenure.first) / _MS
            found.append(
                Overlap(tenure.address, other.node, tenure.node, max(both, INTERVAL_MS), tenure.first)
            )
        speaking.append(tenure)
    return found


def takeovers(frames: Iterable[Frame]) -> list[Takeover]:
    """Every change of the owner, in the order of time for each address."""
    return takeovers_among(tenures(frames))


def takeovers_among(ordered: Iterable[Tenure]) -> list[Takeover]:
    """As :func:`takeovers`, of what :func:`tenures` gives."""
    return [
        Takeover(new.address, old.node, new.node, new.first, (new.first - old.last) / _MS)
        for old, new in pairwise(ordered)
        if old.address == new.address and old.node != new.node
    ]


def owner_at_end(frames: Iterable[Frame], window: float, end: int) -> dict[str, tuple[str, ...]]:
    """For each address that was ever heard: the nodes that spoke in the ``window`` ms before ``end`` (ns)."""
    found: dict[str, set[str]] = defaultdict(set)
    for frame in frames:
        received = found[frame.address]
        if end - window * _MS < frame.at <= end:
            received.add(frame.node)
    return {address: tuple(sorted(nodes)) for address, nodes in found.items()}


def longest_overlap(found: Sequence[Overlap]) -> float:
    """Milliseconds; 0.0 where there is none."""
    return max((overlap.milliseconds for overlap in found), default=0.0)
