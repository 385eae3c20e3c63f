"""Compare VNI and ``connectionSync`` of each egress IP between nodes, a few egress IPs in each message.

If a worker uses another VNI than the master, the master receives none of the worker's packets. VNIs follow from the
inventory, so nodes that differ have different objects in their stores, or run different versions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from ..ipc import EgressIPSpec, Tunnel
from ..limits import MAX_TUNNELS
from ..voting.protocol import SECOND

LASTING_NS = 5 * SECOND
"""Time for which two nodes must differ before the difference is a problem: the nodes learn of an edit one after
another.
"""
CURRENT_NS, PART_NS = 30 * SECOND, 4 * SECOND
"""Time for which a difference counts after its last message, and additional time for each message that a node needs to
send all of its egress IPs.
"""
MAX_KEPT = 1024
"""Largest number of remembered differences."""
MAX_NAMED = 16
"""Largest number of differences that problems name; further ones are counted."""
Key = tuple[str, str, str]
"""Node, id of the egress IP, setting."""


@dataclass(frozen=True)
class Difference:
    """A difference between this node and another one."""

    mine: str
    other: str
    since: int
    at: int

    @property
    def lasts(self) -> bool:
        """Return True if the difference has lasted for longer than an edit takes to reach all nodes."""
        return self.at - self.since >= LASTING_NS


class SameTunnels:
    """The tunnels of one node, compared with those of others. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self) -> None:
        self.revision = 0
        """Number that grows whenever the problems change."""
        self._mine: dict[str, Tunnel] = {}
        self._parts: list[tuple[Tunnel, ...]] = []
        self._names: dict[str, str] = {}
        self._found: dict[Key, Difference] = {}

    def configure(self, specs: Iterable[EgressIPSpec], nodes: Collection[str]) -> None:
        """Apply this node's egress IPs. ``nodes``: the other nodes."""
        wanted = {spec.id: spec for spec in specs}
        mine = {
            identity: Tunnel(identity, spec.vni, spec.sync) for identity, spec in wanted.items() if spec.vni
        }
        self._names = {
            identity: f"{spec.gateway} {spec.address}".strip() for identity, spec in wanted.items()
        }
        changed = {identity for identity, tunnel in self._mine.items() if mine.get(identity) != tunnel}
        self._mine, tunnels = mine, list(mine.values())
        self._parts = [tuple(tunnels[at : at + MAX_TUNNELS]) for at in range(0, len(tunnels), MAX_TUNNELS)]
        self._drop(key for key in self._found if key[1] in changed or key[0] not in nodes)

    def part(self, period: int) -> tuple[Tunnel, ...]:
        """Return the tunnels for a message: each ``period`` has the next part of all tunnels."""
        return self._parts[period % len(self._parts)] if self._parts else ()

    def on_tunnels(self, node: str, tunnels: Iterable[Tunnel], now: int) -> None:
        """Compare another node's tunnels with those of this node.

        Egress IPs that this node does not know are ignored.
        """
        for other in tunnels:
            mine = self._mine.get(other.id)
            if mine is None:
                continue
            self._compare((node, other.id, "the tunnel's number (VNI)"), str(mine.vni), str(other.vni), now)
            self._compare(
                (node, other.id, "connectionSync"), _yaml_bool(mine.sync), _yaml_bool(other.sync), now
            )

    def forget(self, node: str) -> None:
        """Drop the differences from a node that is no longer live."""
        self._drop(key for key in self._found if key[0] == node)

    def forget_old(self, now: int) -> None:
        """Drop differences that were not repeated for long: the other node may no longer have the egress IP."""
        lapse = CURRENT_NS + PART_NS * len(self._parts)
        self._drop(key for key, found in self._found.items() if now > found.at + lapse)

    def problems(self, me: str) -> Iterator[str]:
        """Yield one text for each difference that lasts."""
        lasting = sorted((key, found) for key, found in self._found.items() if found.lasts)
        for (node, identity, setting), found in lasting[:MAX_NAMED]:
            yield (
                f"{setting} of {self._names.get(identity, identity)} is {found.mine} on this node ({me}) and "
                f"{found.other} on {node}: these nodes have different gateways in their stores, or different versions"
            )
        if len(lasting) > MAX_NAMED:
            yield f"{len(lasting) - MAX_NAMED} more differences between tunnels of this node ({me}) and of others"

    def _compare(self, key: Key, mine: str, other: str, now: int) -> None:
        before = self._found.get(key)
        if mine == other:
            self._drop([key] if before else [])
        elif before is not None or len(self._found) < MAX_KEPT:
            same = before is not None and (before.mine, before.other) == (mine, other)
            found = self._found[key] = Difference(mine, other, before.since if before and same else now, now)
            self.revision += found.lasts and not (before is not None and same and before.lasts)

    def _drop(self, keys: Iterable[Key]) -> None:
        for key in list(keys):
            self.revision += self._found.pop(key).lasts


def _yaml_bool(sync: bool) -> str:
    return "true" if sync else "false"
