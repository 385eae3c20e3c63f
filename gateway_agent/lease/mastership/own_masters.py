"""What a node says of itself: what it is master of, and what it has let go of."""

from __future__ import annotations

from collections.abc import Collection

from ..voting.protocol import MILLISECOND, SECOND, LeaseState, Release
from .masters import MasterAnnouncement, MasterEntry

REPEAT_NS = 1 * SECOND
"""How long a release is repeated in each heartbeat."""


class OwnMasters:
    def __init__(self) -> None:
        self.masteries: dict[str, MasterAnnouncement] = {}
        """By egress id."""
        self._releases: dict[tuple[str, str], tuple[Release, int]] = {}

    def add(
        self,
        identity: str,
        tenure: LeaseState,
        shown: str,
        leaving: bool,
        before: MasterEntry,
        silent_ns: int,
        wall_ns: int,
    ) -> bool:
        """This node holds it. True where that, or something about it, is news.

        ``leaving``: it hands over. ``before``: who was followed until now; ``silent_ns``: for how long nobody has
        served. ``wall_ns``: Unix time.
        """
        told = self.masteries.get(identity)
        news = (tenure.held_epoch, tenure.survivor, shown, leaving)
        if told and (told.epoch, told.survivor, told.shown, told.leaving) == news:
            return False
        if told is None:
            silent_ms, planned = silent_ns // MILLISECOND, before.planned
            since, reason = wall_ns / SECOND, _why(before, silent_ms, tenure.survivor)
        else:
            since, silent_ms, reason, planned = told.since, 0, told.reason, False
        self.masteries[identity] = MasterAnnouncement(
            identity, tenure.held_epoch, since, tenure.survivor, reason, silent_ms, shown, leaving, planned
        )
        return True

    def remove(self, identity: str) -> bool:
        """True where it was announced."""
        return self.masteries.pop(identity, None) is not None

    def retain(self, held: Collection[str]) -> None:
        """Says nothing of what is not ``held`` any more."""
        self.masteries = {identity: m for identity, m in self.masteries.items() if identity in held}

    def release(self, release: Release, now: int) -> None:
        """To be repeated for a while: this node's own, or one that it passes on."""
        self._releases[release.id, release.node] = (release, now)

    def releases(self, now: int) -> tuple[Release, ...]:
        self._releases = {k: (r, at) for k, (r, at) in self._releases.items() if now < at + REPEAT_NS}
        return tuple(release for release, _ in self._releases.values())


def _why(before: MasterEntry, silent_ms: int, survivor: bool) -> str:
    if before.epoch == 0:
        reason = "first master"
    else:
        reason = before.gone or before.lost or f"{before.master} unheard for {silent_ms} ms"
    return f"{reason}; no majority of the voters answers" if survivor else reason
