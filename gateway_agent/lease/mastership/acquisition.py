"""When a node asks for an egress IP that has no master, and when it gives way to another."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from ..voting.protocol import EPOCH, HELD, MILLISECOND, NEVER, SECOND, Owner, Refusal, Release, Request
from .placement import rendezvous_hash

PAUSE_LIMIT_NS = 5 * SECOND
STEADY_NS = 2 * PAUSE_LIMIT_NS
"""For so long after a pause nothing must fail, or the next pause is longer. A lease that is lost earlier was no
success: a machine that is starved of processor time wins elections too."""
EARLY_NS = 2 * MILLISECOND
"""So long before an egress IP can be granted it is asked for: the voters keep the request until then."""
LATE_NS = 3 * MILLISECOND
"""So long after that it is asked for once more, where no answer has come."""
SUSPECT_BEATS = 3
"""A member that was not heard for so many heartbeats is suspect."""


@dataclass(frozen=True)
class Timers:
    """Nanoseconds."""

    heartbeat_ns: int
    duration_ns: int

    @property
    def suspect_ns(self) -> int:
        return SUSPECT_BEATS * self.heartbeat_ns


@dataclass
class _Wait:
    since: int
    """Homeless since."""
    not_before: int = 0
    alone_before: int = 0
    """In the place of ``not_before`` where no other node can serve: a long pause would help nobody."""
    tries: int = 0
    """How often another candidate was first."""
    told_at: int = 0
    """When voters last said when asking again can help."""


class Acquisition:
    """Decides for one node, which asks through ``owner``."""

    def __init__(self, node: str, incarnation: int, owner: Owner) -> None:
        self._node = node
        self._incarnation = incarnation
        self._owner = owner
        self._waits: dict[str, _Wait] = {}
        self._ranks: dict[str, int] = {}
        """Of those that this node stands for."""
        self._alone: set[str] = set()
        """Those of them that no other node can serve."""
        self._failures: dict[str, tuple[int, int]] = {}
        """How many elections came to nothing, one after another, and when the pause after the last of them ends."""
        self._releases: dict[str, Release] = {}
        """The last of each egress IP."""

    def try_acquire(
        self, identity: str, rank: int, alone: bool, epoch: int, timers: Timers, now: int
    ) -> bool:
        """The egress IP is homeless and this node is candidate number ``rank``. True: send a request now.

        ``alone``: no other node can serve it. A worse rank waits longer, so that a better one that fails to ask blocks
        nobody.
        """
        self._ranks[identity] = rank
        (self._alone.add if alone else self._alone.discard)(identity)
        self._waits.setdefault(identity, _Wait(now))
        tenure = self._owner.tenures.get(identity)
        if tenure is None:
            if now < self._start(identity, timers):
                return False
            self._owner.ask(identity, epoch, now)
            return True
        if tenure.retry_at and tenure.retry_at <= now:
            tenure.retry_at = 0
            return True
        return False

    def timed_out(self, identity: str, timers: Timers, now: int) -> bool:
        """Whether it asked for a whole lease time and was neither granted a lease nor told to wait."""
        tenure, wait = self._owner.tenures.get(identity), self._waits.get(identity)
        if tenure is None or wait is None or tenure.until or tenure.retry_at:
            return False
        return now - max(tenure.asked_at, wait.told_at) >= timers.duration_ns

    def withdraw(self, identity: str, reason: str, heir: str = "", shared: bool = False) -> Release | None:
        """Asks no longer, and gives back what single voters may have granted."""
        tenure = self._owner.drop(identity)
        if tenure is None:
            return None
        return Release(identity, tenure.epoch, self._node, self._incarnation, reason, heir, shared)

    def waits(self, identity: str) -> bool:
        """Whether it counts as homeless here."""
        return identity in self._waits or identity in self._ranks

    def reset(self, identity: str) -> None:
        """It has a master."""
        self._waits.pop(identity, None)
        self._ranks.pop(identity, None)

    def forget(self, keep: Collection[str]) -> None:
        """Drop what is known of other egress IPs than ``keep`` and those that are asked for."""
        kept = {*keep, *self._owner.tenures}
        known: tuple[dict[str, Any], ...] = (self._waits, self._ranks, self._failures, self._releases)
        for each in known:
            for identity in each.keys() - kept:
                del each[identity]
        self._alone &= kept

    def suspend(self, identity: str) -> None:
        """This node cannot serve it now. A pause that was earned goes on."""
        self._ranks.pop(identity, None)

    def pause(self, identity: str, timers: Timers, now: int, lost: bool = False) -> None:
        """After a fruitless try or a lease that was ``lost``: else a node that sends but hears nothing blocks all.

        Each failure that follows soon makes the pause twice as long. Where no other node can serve, that goes for
        fruitless tries only.
        """
        wait = self._waits.setdefault(identity, _Wait(now))
        self._failures = {
            i: (count, end) for i, (count, end) in self._failures.items() if now < end + STEADY_NS
        }
        failures, _ = self._failures.get(identity, (0, 0))
        jitter = rendezvous_hash(identity, self._node, "pause", str(failures)) % timers.heartbeat_ns
        wait.not_before = now + min(timers.duration_ns << min(failures, 10), PAUSE_LIMIT_NS) + jitter
        wait.alone_before = now + timers.duration_ns + jitter if lost else wait.not_before
        self._failures[identity] = failures + 1, wait.not_before

    def released(self, release: Release, now: int) -> None:
        """Somebody has let go of it: ask again at once."""
        self._releases[release.id] = release
        tenure = self._owner.tenures.get(release.id)
        if tenure and not tenure.until:
            # A request that is under way may come too early, or never.
            tenure.retry_at = now

    def refresh_refusals(self, refused: Iterable[Refusal]) -> tuple[Refusal, ...]:
        """What the voter says by now: its answer may have been overtaken by a release."""
        return tuple(
            Refusal(refusal.id, EPOCH, refusal.holder, refusal.epoch) if self._is_over(refusal) else refusal
            for refusal in refused
        )

    def _is_over(self, refusal: Refusal) -> bool:
        release = self._releases.get(refusal.id)
        if release is None or refusal.why != HELD:
            return False
        return release.node == refusal.holder and release.epoch >= refusal.epoch

    def on_answer(
        self,
        request: Request,
        refused: Collection[Refusal],
        former: dict[str, str],
        timers: Timers,
        now: int,
    ) -> list[Release]:
        """Takes in what a voter refused, and gives way where another candidate has the better lot.

        ``former``: the last known masters by egress id; they are not candidates.
        """
        releases = []
        for identity in request.claims:
            tenure, wait = self._owner.tenures.get(identity), self._waits.get(identity)
            if tenure is None or wait is None or tenure.until:
                continue
            refusals = [r for r in refused if r.id == identity]
            for refusal in refusals:
                if refusal.why == EPOCH:
                    self._owner.exceed(identity, refusal.epoch)
            if any(self._defers(identity, r, former) for r in refusals):
                release = self.withdraw(identity, "another candidate was first")
                releases += [release] if release else []
                wait.not_before = now + timers.heartbeat_ns + self._jitter(identity, wait, timers)
                wait.alone_before = wait.not_before
                wait.tries += 1
                continue
            earliest = request.quorum.met_at(request.moments.get(identity, {}))
            if earliest < NEVER:
                turn = earliest + self._ranks.get(identity, 0) * timers.heartbeat_ns
                tenure.retry_at = _again(earliest, turn, now)
                wait.told_at = now
        return releases

    def next_wake(self, timers: Timers) -> int:
        moments = [t.retry_at for t in self._owner.tenures.values() if t.retry_at and not t.until]
        waiting = [self._start(i, timers) for i in self._ranks if i not in self._owner.tenures]
        return min(moments + waiting, default=NEVER)

    def _start(self, identity: str, timers: Timers) -> int:
        wait, rank = self._waits[identity], self._ranks.get(identity, 0)
        # The best one is granted it when the lease of a master that was found missing has ended. Who asked in that
        # very moment too would split the votes.
        ended = max(timers.duration_ns - timers.suspect_ns, 0)
        paused_until = wait.alone_before if identity in self._alone else wait.not_before
        return max(wait.since + (ended + rank * timers.heartbeat_ns if rank else 0), paused_until)

    def _defers(self, identity: str, refusal: Refusal, former: dict[str, str]) -> bool:
        other = refusal.holder
        if refusal.why != HELD or other in (self._node, former.get(identity)):
            return False
        return rendezvous_hash(identity, other) < rendezvous_hash(identity, self._node)

    def _jitter(self, identity: str, wait: _Wait, timers: Timers) -> int:
        return rendezvous_hash(identity, self._node, str(wait.tries)) % timers.heartbeat_ns


def _again(earliest: int, turn: int, now: int) -> int:
    """When to ask again for what can be granted at ``earliest``. ``turn``: that, or later, where others come first."""
    if earliest <= now:
        # Only the epoch was too low. Not at once: without a pause the same question gets the same answer.
        return now + MILLISECOND
    return turn - EARLY_NS if now < turn - EARLY_NS else turn + LATE_NS
