"""The master of each egress IP, by the messages of all nodes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from ..egress_ips.egress_ip import EgressIP, EgressIPs
from ..egress_ips.master_entry import QUEUE_NS, QUEUE_TIMED_OUT, MasterEntry
from ..messages.bodies import FIRST_MASTER, MasterAnnouncement
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


@dataclass
class _Repetition:
    """Announcements of a node that change nothing as long as they and the egress IPs stay the same."""

    announcements: Sequence[MasterAnnouncement]
    version: int
    """The version of the egress IPs that they belong to."""
    at: int
    """The moment at which they were received last."""
    noted: bool = True
    """True if the entries have this moment."""


class MasterTable:
    """The masters by their announcements. Of two masters, the one with the higher epoch is valid.

    Theory of operation
    -------------------
    At rest, each heartbeat of a node names the same egress IPs again. Then only the moment of their receipt is new, and
    it is noted once for all of them (:class:`_Repetition`). It is written into the entries (:meth:`_note_receipts`)
    before anything reads it or changes an entry.
    """

    def __init__(self, egress_ips: EgressIPs) -> None:
        self._egress_ips = egress_ips
        self.changed: set[str] = set()
        """Ids with a new master, or whose master has begun or ended a handover. The reader empties this set."""
        self.given_up = False
        """True if the last announcement omits an egress IP that the announcement before named."""
        self._repetitions: dict[str, _Repetition] = {}
        """The repeated announcements of each node."""
        self._oldest = NEVER
        """No entry with a master was received before this moment."""
        self._leaving: set[str] = set()
        """Ids for whose handover packets are queued."""

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
        self.given_up, announcements = False, tuple(announcements)
        if self.repeats(node, announcements):
            self._repetitions[node].at, self._repetitions[node].noted = now, False
            return []
        self._note_receipts()
        self._repetitions.pop(node, None)
        changes, named, taken = [], set(), 0
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
            taken += 1
            # The same node again, after the end of its lease: no other node has taken over.
            if not same or (before.gone is not None and announcement.epoch > before.epoch):
                reason, silent_ms = _end_of(before, announcement, now)
                changes.append(
                    MasterChange(announcement.id, before, after, reason, silent_ms, announcement.planned)
                )
        self._give_up(node, named, now)
        if taken == len(announcements):
            self._repetitions[node] = _Repetition(announcements, self._egress_ips.version, now)
        return changes

    def _give_up(self, node: str, named: Collection[str], now: int) -> None:
        """Note that ``node`` is master of nothing but ``named`` any more.

        Without a release its daemon has restarted, and served nothing since its last announcement.
        """
        for record, entry in self._entries():
            if entry.master == node and record.id not in named and entry.gone is None:
                gone, since = f"given up by {node}", entry.received_at
                self._set(record, replace(entry, gone=gone, gone_at=now, unserved_since=since))
                self.given_up = True

    def repeats(self, node: str, announcements: Sequence[MasterAnnouncement]) -> bool:
        """Return True if ``node`` announces what it announced before, and nothing has changed since then."""
        last = self._repetitions.get(node)
        return (
            last is not None
            and last.version == self._egress_ips.version
            and (last.announcements is announcements or last.announcements == announcements)
        )

    def _note_receipts(self) -> None:
        """Write the receipts of repeated announcements into the entries."""
        for node, last in self._repetitions.items():
            if last.noted:
                continue
            for record in filter(None, (self._egress_ips.find(each.id) for each in last.announcements)):
                if record.followed and record.followed.master == node:
                    record.followed = replace(record.followed, received_at=last.at)
            last.noted = True

    def forget_old(self) -> None:
        """Drop the announcements that belong to earlier egress IPs."""
        self._note_receipts()
        version = self._egress_ips.version
        self._repetitions = {n: last for n, last in self._repetitions.items() if last.version == version}

    def silent_ns(self, identity: str, suspect_ns: int, now: int) -> int:
        """Return for how long nothing has left by an egress IP: see :meth:`.MasterEntry.silent_ns`."""
        self._note_receipts()
        return self.of(identity).silent_ns(suspect_ns, now)

    def release(self, release: Release, now: int) -> bool:
        """Note that the master has released an egress IP. Return True if that is news.

        The master is followed until another one announces itself.
        """
        self._note_receipts()
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
        if now < self.next_silence(hold_ns):
            return []
        self._note_receipts()
        changes = []
        for record, before in self._entries():
            if before.master and now - before.received_at >= hold_ns:
                silent_ms = (now - before.received_at) // MILLISECOND
                reason = before.gone or f"{before.master} silent for {silent_ms} ms"
                after = MasterEntry(epoch=before.epoch, received_at=before.received_at, lost=reason)
                self._set(record, after)
                changes.append(MasterChange(record.id, before, after, reason, silent_ms))
        self._oldest = min((e.received_at for _, e in self._entries() if e.master), default=NEVER)
        return changes

    def next_queue_timeout(self) -> int:
        """Return the moment at which the next queueing of packets times out."""
        return min((self.of(i).leaving_at + QUEUE_NS for i in self._leaving), default=NEVER)

    def end_queueing(self, now: int) -> None:
        """End the queueing of packets for handovers that have timed out."""
        for identity in sorted(self._leaving):
            record, entry = self._egress_ips.record(identity), self.of(identity)
            if not entry.is_queueing(now):
                self._note_receipts()
                self._set(record, replace(self.of(identity), leaving_at=QUEUE_TIMED_OUT))

    def next_silence(self, hold_ns: int) -> int:
        """Return when :meth:`silence` is to be called: no master that stays silent is dropped before."""
        return min(self._oldest + hold_ns, NEVER)

    def _entries(self) -> Iterator[tuple[EgressIP, MasterEntry]]:
        return ((record, record.followed) for record in self._egress_ips if record.followed is not None)

    def _set(self, record: EgressIP, entry: MasterEntry) -> None:
        before = record.followed or _NO_MASTER
        if replace(before, received_at=entry.received_at) != entry:
            self._egress_ips.version += 1
        if entry.master:
            self._oldest = min(self._oldest, entry.received_at)
        if entry.leaving_at > QUEUE_TIMED_OUT:
            self._leaving.add(record.id)
        if (before.master, before.leaving_at) != (entry.master, entry.leaving_at):
            self.changed.add(record.id)
        record.followed = entry
        if entry.leaving_at <= QUEUE_TIMED_OUT:
            self._leaving.discard(record.id)


def _end_of(before: MasterEntry, announcement: MasterAnnouncement, now: int) -> tuple[str, int]:
    """Return why ``before`` was master no longer, and the milliseconds without a master.

    The new master says both, unless its daemon has just started and knows of no master before.
    """
    if not before.epoch or not announcement.reason.startswith(FIRST_MASTER):
        return announcement.reason, announcement.silent_ms
    silent_ms = before.silent_ns(NEVER, now) // MILLISECOND
    return before.gone or before.lost or f"{before.master} silent for {silent_ms} ms", silent_ms


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
