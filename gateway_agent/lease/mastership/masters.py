"""The master of each egress IP, by the messages of all nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from ..egress_ips.egress_ip import EgressIP, EgressIPs
from ..egress_ips.master_entry import QUEUE_NS, QUEUE_TIMED_OUT, MasterEntry
from ..messages.bodies import MasterAnnouncement
from ..voting.protocol import MILLISECOND, NEVER, Release

REPORT_NS = 500 * MILLISECOND
"""Interval at which an egress node sends its masters to each subscriber while nothing changes."""


_NO_MASTER = MasterEntry()


@dataclass(frozen=True)
class MasterChange:
    """A change of an egress IP's master: to another node, or to none."""

    id: str
    before: MasterEntry
    after: MasterEntry
    reason: str
    silent_ms: int
    planned: bool = False


class MasterTable:
    """The masters by their announcements. Of two masters, the one with the higher epoch is valid."""

    def __init__(self, egress_ips: EgressIPs) -> None:
        self._egress_ips = egress_ips
        self.changed: set[str] = set()
        """Ids with a new master, or whose master has begun or ended a handover. The reader empties this set."""
        self.given_up = False
        """True if the last announcement omits an egress IP that the announcement before named."""

    def of(self, identity: str) -> MasterEntry:
        """Return the master that this node follows."""
        record = self._egress_ips.find(identity)
        return record.followed if record and record.followed else _NO_MASTER

    def highest(self, identity: str) -> int:
        """Return the highest epoch that this node has received; 0: none."""
        record = self._egress_ips.find(identity)
        return record.highest_epoch or 0 if record else 0

    def all_highest(self, identities: Iterable[str]) -> dict[str, int]:
        """Return :meth:`highest` of the ids for which this node has received an epoch."""
        records = filter(None, map(self._egress_ips.find, identities))
        return {each.id: each.highest_epoch for each in records if each.highest_epoch is not None}

    def note(self, identity: str, epoch: int) -> None:
        """Remember that another node has named this epoch."""
        record = self._egress_ips.admit(identity)
        if record is not None:
            self._note(record, epoch)

    def _note(self, record: EgressIP, epoch: int) -> None:
        if record.highest_epoch is None or epoch > record.highest_epoch:
            record.highest_epoch = epoch
        record.unused_since = None

    def follows(self, node: str) -> bool:
        """Return True if ``node`` is master of any egress IP, as far as this node knows."""
        return any(entry.master == node for _, entry in self._entries())

    def known(self) -> list[tuple[str, int, str]]:
        """Return (id, epoch, master) of each egress IP, for a subscription."""
        return [(record.id, entry.epoch, entry.master) for record, entry in self._entries()]

    def outranked(self, node: str, announcements: Iterable[MasterAnnouncement]) -> bool:
        """Return True if another master's epoch is at least as high as one that ``node`` announces."""
        known = [(announcement.epoch, self.of(announcement.id)) for announcement in announcements]
        return any(
            epoch < entry.epoch or (epoch == entry.epoch and entry.master not in ("", node))
            for epoch, entry in known
        )

    def on_announcement(
        self, node: str, announcements: Iterable[MasterAnnouncement], hold_ns: int, now: int
    ) -> list[MasterChange]:
        """Note every egress IP that ``node`` is master of. ``hold_ns``: how long a silent master is still followed."""
        changes, named, self.given_up = [], set(), False
        for announcement in announcements:
            named.add(announcement.id)
            record = self._egress_ips.admit(announcement.id)
            if record is None:
                continue
            before = record.followed or _NO_MASTER
            same = before.master == node
            stale = before.master == "" or now - before.received_at > hold_ns or before.gone is not None
            if announcement.epoch < before.epoch or (
                announcement.epoch == before.epoch and not same and not stale
            ):
                continue
            self._note(record, announcement.epoch)
            after = _announced(node, announcement, before, now)
            self._set(record, after)
            # The same node again, after the end of its lease: no other node has taken over.
            if not same or (before.gone is not None and announcement.epoch > before.epoch):
                reason, silent_ms = announcement.reason, announcement.silent_ms
                changes.append(
                    MasterChange(announcement.id, before, after, reason, silent_ms, announcement.planned)
                )
        for record, entry in self._entries():
            if entry.master == node and record.id not in named and entry.gone is None:
                self._set(record, replace(entry, gone=f"given up by {node}", gone_at=now))
                self.given_up = True
        return changes

    def release(self, release: Release, now: int) -> bool:
        """Note that the master has released an egress IP. Return True if that is news.

        The master is followed until another one announces itself.
        """
        record, entry = self._egress_ips.find(release.id), self.of(release.id)
        if record is None or entry.master != release.node or release.epoch < entry.epoch:
            return False
        news = entry.gone is None or entry.gone.startswith("given up")
        after = replace(
            entry,
            gone=f"released by {release.node}: {release.reason}",
            gone_at=entry.gone_at or now,
            unserved_since=entry.unserved_since or now - release.unserved_ms * MILLISECOND,
            planned=bool(release.target),
        )
        self._set(record, after)
        return news

    def silence(self, hold_ns: int, now: int) -> list[MasterChange]:
        """Drop the masters that were silent for ``hold_ns``. Return the changes."""
        changes = []
        for record, before in self._entries():
            if before.master and now - before.received_at >= hold_ns:
                silent_ms = (now - before.received_at) // MILLISECOND
                reason = before.gone or f"{before.master} silent for {silent_ms} ms"
                after = MasterEntry(epoch=before.epoch, received_at=before.received_at, lost=reason)
                self._set(record, after)
                changes.append(MasterChange(record.id, before, after, reason, silent_ms))
        return changes

    def next_queue_timeout(self) -> int:
        """Return the moment at which the next queueing of packets times out."""
        return min(
            (e.leaving_at + QUEUE_NS for _, e in self._entries() if e.leaving_at > QUEUE_TIMED_OUT),
            default=NEVER,
        )

    def end_queueing(self, now: int) -> None:
        """End the queueing of packets for handovers that have timed out."""
        for record, entry in self._entries():
            if entry.leaving_at and not entry.is_queueing(now):
                self._set(record, replace(entry, leaving_at=QUEUE_TIMED_OUT))

    def next_silence(self, hold_ns: int) -> int:
        """Return the moment at which the next master is dropped if it stays silent."""
        return min((e.received_at + hold_ns for _, e in self._entries() if e.master), default=NEVER)

    def _entries(self) -> Iterator[tuple[EgressIP, MasterEntry]]:
        return ((record, record.followed) for record in self._egress_ips if record.followed is not None)

    def _set(self, record: EgressIP, entry: MasterEntry) -> None:
        before = record.followed or _NO_MASTER
        if (before.master, before.leaving_at) != (entry.master, entry.leaving_at):
            self.changed.add(record.id)
        record.followed = entry


def _announced(node: str, announcement: MasterAnnouncement, before: MasterEntry, now: int) -> MasterEntry:
    """Return the entry that follows ``before`` when ``node`` announces that it is master."""
    leaving_since = before.leaving_at if before.master == node else 0
    return MasterEntry(
        node,
        announcement.epoch,
        announcement.since,
        now,
        announcement.without_quorum,
        shown=announcement.shown,
        leaving_at=(leaving_since or now) if announcement.leaving else 0,
    )
