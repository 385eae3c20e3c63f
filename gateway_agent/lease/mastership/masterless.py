"""What has no master, and what of it was taken over a moment ago: that alone may still be evened out.

Facts differ between nodes for a moment, on a busy machine for a long one. So one of two survivors may take over more
than its share. It gives some of that on, and nothing that it had before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from ..voting.protocol import SECOND

REBALANCE_WINDOW_NS = 15 * SECOND
"""How long after a takeover what was homeless may be handed on to a node that serves fewer."""


@dataclass(frozen=True)
class _Taken:
    homeless_since: int
    at: int
    master: str


class Masterless:
    """As one node sees it. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self) -> None:
        self._since: dict[str, int] = {}
        self._last: dict[str, str] = {}
        self._taken: dict[str, _Taken] = {}
        self._lost_at = 0
        """Since when the egress IPs have been homeless that were lost last."""

    def look(
        self,
        identities: Collection[str],
        masters: Mapping[str, str],
        heirs: Mapping[str, str],
        shared: Collection[str],
        now: int,
    ) -> None:
        """Take in the healthy masters by egress id, this node among them.

        ``identities``: all that there are. ``heirs``: to whom what was handed over is to go: that is no loss.
        ``shared``: what of it goes there in order to serve equally many. It is as young as before: who took it may
        have more than its share in its turn, as nodes become ready one after another. Any other handover was meant:
        by an operator, a drain or a failback. What its receiver has is settled then, or the next step would give
        something of it away because the receiver serves more.
        """
        settled: set[str] = set()
        for known in (self._since, self._last, self._taken):
            for identity in known.keys() - identities:
                del known[identity]
        for identity in identities:
            master = masters.get(identity, "")
            if not master:
                self._since.setdefault(identity, now)
                continue
            since, before = self._since.pop(identity, now), self._last.get(identity, "")
            self._last[identity] = master
            if master == before:
                continue
            taken = self._taken.pop(identity, None)
            handed_over = heirs.get(identity) == master
            if taken and handed_over and identity in shared:
                self._taken[identity] = replace(taken, master=master)
            elif handed_over:
                settled.add(master)
            if not handed_over:
                self._taken[identity] = _Taken(since, now, master)
                if before:
                    self._lost_at = max(self._lost_at, since)
        self._taken = {i: taken for i, taken in self._taken.items() if taken.master not in settled}

    def __bool__(self) -> bool:
        return bool(self._since)

    def fresh(self, now: int) -> dict[str, int]:
        """Return when it was taken over, by egress id, for what may be evened out.

        What was taken over before the last loss is settled: that loss must not move it.
        """
        return {
            identity: taken.at
            for identity, taken in self._taken.items()
            if taken.homeless_since >= self._lost_at
            and now < taken.at + REBALANCE_WINDOW_NS
            and identity not in self._since
        }
