"""Egress IPs without a master, and those that a node has just taken over: only the latter still move to other nodes.

After a loss the remaining nodes take over at once, and each decides by what it knows. On a busy machine these facts
differ for some time, so one node may take over more than its share. Such a node hands over a part of what it took, and
nothing of what it served before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from ..egress_ips.egress_ip import EgressIP, EgressIPs, Taken
from ..voting.protocol import SECOND

REBALANCE_WINDOW_NS = 15 * SECOND
"""Time after a takeover in which an egress IP that had no master may move to a node that serves fewer."""


class Masterless:
    """The egress IPs without a master, as one node knows them. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self, egress_ips: EgressIPs) -> None:
        self._egress_ips = egress_ips
        self._lost_at = 0
        """The moment of the last loss: an egress IP that had a master has none since then."""

    def update(
        self,
        identities: Collection[str],
        masters: Mapping[str, str],
        targets: Mapping[str, str],
        shared: Collection[str],
        now: int,
    ) -> None:
        """Update the records by the healthy ``masters``, by egress id, this node among them.

        ``identities``: all egress IPs. ``targets``: receivers of handovers by egress id; a handover is no loss.
        ``shared``: ids of those that were handed over for an even spread. Such an egress IP may move again: nodes
        become ready one after another, so its receiver may in turn have more than its share. Any other handover was
        requested, by an operator, a drain or a failback. Then nothing of the receiver moves any more: otherwise the
        next round would move an egress IP away because the receiver serves more.
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
        """Note a healthy master. Return True if nothing of this master may move any more: see :meth:`update`."""
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
        """Return the moment of the takeover, by egress id, of all egress IPs that may move for an even spread.

        An egress IP that was taken over before the last loss does not move because of that loss.
        """
        return {
            record.id: record.taken.at
            for record in self._egress_ips
            if record.taken
            and record.taken.masterless_since >= self._lost_at
            and now < record.taken.at + REBALANCE_WINDOW_NS
            and record.masterless_since is None
        }
