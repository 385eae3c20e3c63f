"""Settings that must be the same on all nodes; the nodes themselves compare them.

Each node sends its settings with its subscription, every two seconds, and an egress node with its answer to a
subscription; other heartbeats carry no settings. A node whose version sends no settings is not checked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import msgspec

from ..ipc import EgressIPSpec, Facts
from ..voting.protocol import MILLISECOND, SECOND
from .same_tunnels import SameTunnels

CURRENT_NS = 30 * SECOND
"""Time for which a node's settings are compared: the settings of a node that is gone are forgotten."""
MAX_NAMED = 16
"""Largest number of nodes that problems name; further nodes are counted."""
MAX_CLOCK_DIFFERENCE_S = 30
"""Seconds that two wall clocks may differ. No lease depends on wall clocks, but certificates and reported times do."""
TUNNEL_PORT, MARK_MASK = "tunnel.port", "mark.mask"
SCOPES = {MARK_MASK: " that sync connections"}
"""The nodes on which a setting must be the same, for settings that not all nodes need."""


def setting_texts(facts: Facts) -> Mapping[str, str]:
    """Return the settings by their names in ``agent.yaml``, with readable values."""
    texts = {
        TUNNEL_PORT: str(facts.tunnel_port),
        "quorum": "AvailabilityFirst" if facts.availability_first else "Strict",
        "lease.duration": f"{facts.duration_ns / MILLISECOND:g}ms",
        "clusterCIDRs": facts.cluster_cidrs or "(none)",
    }
    return texts | {MARK_MASK: f"{facts.mark_mask:#010x}"} if facts.mark_mask else texts


class Agreement:
    """The settings of one node and of the others. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self) -> None:
        self._revision = 0
        self._tunnels = SameTunnels()
        self._period = 0
        self._clock_differences: dict[str, int] = {}
        """Seconds by which the wall clock of a node is ahead of this node's, by node."""
        self._mine: Facts | None = None
        self._received: dict[str, tuple[Facts, int]] = {}
        self._differing: dict[str, dict[str, tuple[str, str]]] = {}
        """The value here and the value there, by node and setting."""

    @property
    def revision(self) -> int:
        """Return a number that grows whenever the problems change."""
        return self._revision + self._tunnels.revision

    def configure(
        self, mine: Facts | None, names: Collection[str], specs: Iterable[EgressIPSpec] = ()
    ) -> None:
        """Apply this node's own settings. ``names``: the other nodes."""
        self._tunnels.configure(specs, names)
        known = {name: facts for name, facts in self._received.items() if name in names}
        self._clock_differences = {
            name: ahead for name, ahead in self._clock_differences.items() if name in names
        }
        if mine == self._mine and len(known) == len(self._received):
            return
        self._mine, self._received, self._differing = mine, known, {}
        self._revision += 1
        for name, (facts, _) in known.items():
            self._compare(name, facts)

    def own(self, keys: Collection[int], wall_ns: int) -> Facts | None:
        """Return the settings that this node sends, with the fingerprints of the keys that it accepts.

        ``wall_ns``: Unix time, nanoseconds.
        """
        if self._mine is None:
            return None
        clock, tunnels = max(0.0, wall_ns / SECOND), self._tunnels.part(self._period)
        return msgspec.structs.replace(self._mine, keys=tuple(keys), clock=clock, tunnels=tunnels)

    def on_facts(self, node: str, facts: Facts | None, now: int, wall_ns: int = 0) -> None:
        """Note another node's settings. ``wall_ns``: ``now`` by this node's wall clock."""
        if facts is None:
            return
        self._tunnels.on_tunnels(node, facts.tunnels, now)
        self._compare_clocks(node, facts.clock, wall_ns)
        facts = msgspec.structs.replace(facts, clock=0.0, tunnels=())
        before = self._received.get(node)
        self._received[node] = facts, now
        if before is None or before[0] != facts:
            self._compare(node, facts)

    def start_period(self, now: int) -> None:
        """Drop settings that are too old, and choose the next part of the tunnels to send. Once in each period."""
        self._period += 1
        self._tunnels.forget_old(now)
        for name in [name for name, (_, at) in self._received.items() if now > at + CURRENT_NS]:
            del self._received[name]
            self._tunnels.forget(name)
            self._revision += self._differing.pop(name, None) is not None
            self._revision += self._clock_differences.pop(name, None) is not None

    def accepting(self) -> dict[str, tuple[int, ...]]:
        """Return the fingerprints of the keys that each node says it accepts, by node; its signing key comes first."""
        return {name: facts.keys for name, (facts, _) in self._received.items()}

    def grantable_ns(self, duration_ns: int, voters: Collection[str], least_ns: int) -> int:
        """Return the longest lease time up to ``duration_ns`` that none of ``voters`` is known to refuse.

        A voter grants no lease that is longer than its own ``lease.duration``, which is edited on one node after
        another. Durations below ``least_ns`` are ignored: no such lease could be renewed in time.
        """
        said = (self._received[voter][0].duration_ns for voter in voters if voter in self._received)
        return min((duration_ns, *(other for other in said if other >= least_ns)))

    def problems(self, me: str) -> Iterator[str]:
        """Yield one text for each node and each setting that differs."""
        for name in sorted(self._differing)[:MAX_NAMED]:
            for setting, (mine, other) in self._differing[name].items():
                must = f"it must be the same on all nodes{SCOPES.get(setting, '')}"
                yield f"{setting} is {mine} on this node ({me}) and {other} on {name}: {must}"
        if len(self._differing) > MAX_NAMED:
            yield f"{len(self._differing) - MAX_NAMED} more nodes have other settings than this node ({me})"
        yield from self._tunnels.problems(me)
        for name, ahead in sorted(self._clock_differences.items())[:MAX_NAMED]:
            differs = f"{abs(ahead)} s {'ahead of' if ahead > 0 else 'behind'} that of this node ({me})"
            why = "leases do not depend on it, but certificates and the times in status and Events do"
            yield f"the clock of {name} is {differs}: {why}"

    def unfit(self) -> str:
        """Return why this node cannot be an egress node; empty if it can.

        With another tunnel port than most nodes, this node receives no packets from them. If only a few differ, those
        few are wrong.
        """
        differing = sorted(name for name, found in self._differing.items() if TUNNEL_PORT in found)
        if self._mine is None or 2 * len(differing) <= len(self._received) or len(self._received) < 2:
            return ""
        there = self._differing[differing[0]][TUNNEL_PORT][1]
        return (
            f"its tunnel.port {self._mine.tunnel_port} is not that of most nodes ({differing[0]} has {there})"
        )

    def _compare(self, node: str, facts: Facts) -> None:
        if self._mine is None:
            return
        mine, other = setting_texts(self._mine), setting_texts(facts)
        found = {
            setting: (text, other[setting])
            for setting, text in mine.items()
            if setting in other and text != other[setting]
        }
        before = self._differing.pop(node, {})
        if found:
            self._differing[node] = found
        self._revision += found != before

    def _compare_clocks(self, node: str, clock: float, wall_ns: int) -> None:
        """Compare another node's clock with this one's.

        The transit time of the message counts as difference, and so does the age of this node's own wall clock: both
        are far below the limit.
        """
        ahead = round(clock - wall_ns / SECOND)
        before = self._clock_differences.get(node)
        if not clock or not wall_ns or abs(ahead) <= MAX_CLOCK_DIFFERENCE_S:
            self._revision += self._clock_differences.pop(node, None) is not None
        elif before is None or abs(ahead - before) > MAX_CLOCK_DIFFERENCE_S:
            # A change of one second is not reported.
            self._clock_differences[node] = ahead
            self._revision += 1
