"""Settings that all nodes must have in common, compared by the nodes themselves.

Each node tells them with its subscription, every two seconds, and an egress node with its answer to one: heartbeats in
between carry none. A node of a version that does not tell them is not judged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import msgspec

from .keeping import Facts
from .lease import MILLISECOND, SECOND

CURRENT_NS = 30 * SECOND
"""For so long what a node has said is compared: one that is gone disagrees with nobody."""
MOST_NAMED = 16
"""Nodes that are named; the others are counted."""
TUNNEL_PORT = "tunnel.port"


def told(facts: Facts) -> Mapping[str, str]:
    """Return the settings in the words of ``agent.yaml``, with their values for people."""
    return {
        TUNNEL_PORT: str(facts.tunnel_port),
        "quorum": "AvailabilityFirst" if facts.availability_first else "Strict",
        "lease.duration": f"{facts.duration_ns / MILLISECOND:g}ms",
        "clusterCIDRs": facts.cluster_cidrs or "(none)",
    }


class Agreement:
    """One node's. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self) -> None:
        self.revision = 0
        """Grows when another disagreement is to be shown."""
        self._mine: Facts | None = None
        self._heard: dict[str, tuple[Facts, int]] = {}
        self._differing: dict[str, dict[str, tuple[str, str]]] = {}
        """By node and setting: the value here and the value there."""

    def configure(self, mine: Facts | None, names: Collection[str]) -> None:
        """Take on this node's own settings. ``names``: the other nodes."""
        known = {name: heard for name, heard in self._heard.items() if name in names}
        if mine == self._mine and len(known) == len(self._heard):
            return
        self._mine, self._heard, self._differing = mine, known, {}
        self.revision += 1
        for name, (facts, _) in known.items():
            self._compare(name, facts)

    def hear(self, node: str, facts: Facts | None, now: int) -> None:
        """Take note of another node's settings."""
        if facts is None:
            return
        before = self._heard.get(node)
        self._heard[node] = facts, now
        if before is None or before[0] != facts:
            self._compare(node, facts)

    def forget_old(self, now: int) -> None:
        """Drop what was said too long ago."""
        for name in [name for name, (_, at) in self._heard.items() if now > at + CURRENT_NS]:
            del self._heard[name]
            self.revision += self._differing.pop(name, None) is not None

    def accepting(self) -> dict[str, tuple[int, ...]]:
        """Return the fingerprints of the keys that each node says it accepts, the one that it signs with first."""
        return {name: facts.keys for name, (facts, _) in self._heard.items()}

    def problems(self, me: str) -> Iterator[str]:
        """Yield one text for each node and setting that differ."""
        for name in sorted(self._differing)[:MOST_NAMED]:
            for setting, (mine, other) in self._differing[name].items():
                yield f"{setting} is {mine} on this node ({me}) and {other} on {name}: it must be the same on all nodes"
        if len(self._differing) > MOST_NAMED:
            yield f"{len(self._differing) - MOST_NAMED} more nodes have other settings than this node ({me})"

    def unfit(self) -> str:
        """Return why this node can serve nobody as egress node; empty if it can.

        With another tunnel port than most nodes it gets none of their packets. If only some differ, those are wrong.
        """
        differing = sorted(name for name, found in self._differing.items() if TUNNEL_PORT in found)
        if self._mine is None or 2 * len(differing) <= len(self._heard) or len(self._heard) < 2:
            return ""
        there = self._differing[differing[0]][TUNNEL_PORT][1]
        return f"its tunnel.port {self._mine.tunnel_port} is not that of most nodes ({differing[0]} has {there})"

    def _compare(self, node: str, facts: Facts) -> None:
        if self._mine is None:
            return
        mine, other = told(self._mine), told(facts)
        found = {setting: (mine[setting], other[setting]) for setting in mine if mine[setting] != other[setting]}
        before = self._differing.pop(node, {})
        if found:
            self._differing[node] = found
        self.revision += found != before


def own(facts: Facts, keys: Collection[int]) -> Facts:
    """Return ``facts`` with the fingerprints of the keys that this node accepts."""
    return msgspec.structs.replace(facts, keys=tuple(keys))
