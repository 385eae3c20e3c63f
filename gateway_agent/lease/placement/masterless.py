"""Egress IPs without a master, and those that were taken over a moment ago: only these may still be evened out.

Facts differ between nodes for a moment, on a busy machine for a long one. So one of two remaining nodes may
take over more than its share. It gives some of that on, and nothing that it had before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from ..mastership.egress_ip import EgressIP, EgressIPs, Taken
from ..voting.protocol import SECOND

REBALANCE_WINDOW_NS = 15 * SECOND
"""Time after a takeover in which an egress IP that had no master may be handed on to a node that serves fewer."""


class Masterless:
    """The egress IPs without a master, as one node knows them. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self, egress_ips: EgressIPs) -> None:
        self._egress_ips = egress_ips
        self._lost_at = 0
        """The moment at which the egress IPs that were lost last lost their master."""

    def update(
        self,
        identities: Collection[str],
        masters: Mapping[str, str],
        targets: Mapping[str, str],
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
        wanted = frozenset(identities)
        for record in self._egress_ips:
            if record.id not in wanted:
                record.masterless_since, record.last_master, record.taken = None, "", None
        settled: set[str] = set()
        for identity in identities:
            record, master = self._egress_ips.record(identity), masters.get(identity, "")
            if master:
                handed_over = targets.get(identity) == master
                if self._take(record, master, handed_over, identity in shared, now):
                    settled.add(master)
            elif record.masterless_since is None:
                record.masterless_since = now
        for record in self._egress_ips:
            if record.taken and record.taken.master in settled:
                record.taken = None

    def _take(self, record: EgressIP, master: str, handed_over: bool, shared: bool, now: int) -> bool:
        """Take in a healthy master. Return True if it settles what this master has: see :meth:`update`."""
        since, before = record.masterless_since, record.last_master
        since = now if since is None else since
        record.masterless_since, record.last_master = None, master
        if master == before:
            return False
        taken = record.taken
        if not handed_over:
            record.taken = Taken(since, now, master)
            if before:
                self._lost_at = max(self._lost_at, since)
            return False
        record.taken = replace(taken, master=master) if taken and shared else None
        return not (taken and shared)

    def any(self) -> bool:
        """Return True if any egress IP has no master."""
        return any(record.masterless_since is not None for record in self._egress_ips)

    def fresh(self, now: int) -> dict[str, int]:
        """Return when it was taken over, by egress id, for what may be evened out.

        What was taken over before the last loss is settled: that loss must not move it.
        """
        return {
            record.id: record.taken.at
            for record in self._egress_ips
            if record.taken
            and record.taken.masterless_since >= self._lost_at
            and now < record.taken.at + REBALANCE_WINDOW_NS
            and record.masterless_since is None
        }
