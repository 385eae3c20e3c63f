"""The announcements of a node about itself: the egress IPs that it is master of, and those that it has released."""

from __future__ import annotations

from ..egress_ips.egress_ip import EgressIP, EgressIPs, Phase
from ..egress_ips.master_entry import MasterEntry
from ..egress_ips.running_leases import RunningLeases
from ..messages.bodies import FIRST_MASTER, MasterAnnouncement
from ..voting.protocol import MILLISECOND, SECOND, LeaseState, Release

REPEAT_NS = 1 * SECOND
"""Time for which a release is repeated in each heartbeat."""


class OwnMasters:
    """The announcements of one node. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self, egress_ips: EgressIPs, running: RunningLeases) -> None:
        self._egress_ips = egress_ips
        self._running = running
        self._releases: dict[tuple[str, str], tuple[Release, int]] = {}
        self._announced: tuple[MasterAnnouncement, ...] = ()
        self._announced_of = -1
        """The version of the egress IPs that these announcements belong to."""

    def announcements(self, now: int) -> tuple[MasterAnnouncement, ...]:
        """Return the announcements of all egress IPs that this node is master of: the same object while these are."""
        if self._announced_of == self._egress_ips.version and now < self._running.next_end():
            return self._announced
        records = self._running.masters()
        self._announced_of = -1
        self._announced = tuple(each.announced for each in records if each.announced and each.holds(now))
        if len(self._announced) == len(records):
            self._announced_of = self._egress_ips.version
        return self._announced

    def add(
        self,
        record: EgressIP,
        lease: LeaseState,
        shown: str,
        before: MasterEntry,
        silent_ns: int,
        wall_ns: int,
    ) -> bool:
        """Announce that this node is master of an egress IP. Return True if the announcement is new or has changed.

        ``before``: the master until now; ``silent_ns``: the time for which the egress IP was not served.
        ``wall_ns``: Unix time.
        """
        said, leaving = record.announced, record.phase is Phase.HANDING_OVER
        news = (lease.held_epoch, lease.without_quorum, shown, leaving)
        if said and (said.epoch, said.without_quorum, said.shown, said.leaving) == news:
            return False
        if said is None:
            silent_ms, planned = silent_ns // MILLISECOND, before.planned
            since, reason = wall_ns / SECOND, _why(before, silent_ms, lease.without_quorum)
        else:
            since, silent_ms, reason, planned = said.since, 0, said.reason, False
        self._egress_ips.version += 1
        record.announced = MasterAnnouncement(
            record.id,
            lease.held_epoch,
            since,
            lease.without_quorum,
            reason,
            silent_ms,
            shown,
            leaving,
            planned,
        )
        return True

    def release(self, release: Release, now: int) -> None:
        """Repeat a release for a while: one of this node, or one of another node that this node passes on."""
        self._releases[release.id, release.node] = (release, now)

    def forget_old(self, now: int) -> None:
        """Drop the releases that need no repetition."""
        self._releases = {k: (r, at) for k, (r, at) in self._releases.items() if now < at + REPEAT_NS}

    def releases(self, now: int) -> tuple[Release, ...]:
        """Return the releases that are to be repeated."""
        return tuple(release for release, at in self._releases.values() if now < at + REPEAT_NS)


def _why(before: MasterEntry, silent_ms: int, without_quorum: bool) -> str:
    if before.epoch == 0:
        reason = FIRST_MASTER
    else:
        reason = before.gone or before.lost or f"{before.master} silent for {silent_ms} ms"
    return f"{reason}; no majority of the voters answers" if without_quorum else reason
