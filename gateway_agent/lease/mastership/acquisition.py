"""Decide when a node requests an egress IP that has no master, and when it defers to another candidate.

Theory of operation
-------------------
The answers to a candidate's first request say when the voters' grants for the last master end. The candidate sends its
next request just before that time: the voters defer the request until then (:mod:`..voting.voter_node`), so a failover
takes one round trip after the end of the lease. Candidates have ranks, which all nodes compute alike; a candidate of a
worse rank waits one more heartbeat. If two request at once, the votes split; then the candidate with the worse hash
withdraws and releases the single grants that it got.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ..egress_ips.egress_ip import EgressIPs, Event, Phase, Wait
from ..placement.placement import rendezvous_hash
from ..voting.protocol import EPOCH, HELD, MILLISECOND, NEVER, SECOND, Refusal, Release, Request
from .masters import REPORT_NS
from .owner import Owner

MAX_PAUSE_NS = 5 * SECOND
STEADY_NS = 2 * MAX_PAUSE_NS
"""Time after a pause in which a failure makes the next pause longer. A lease that is lost so early does not count as a
success: a machine that is starved of processor time wins elections, too.
"""
EARLY_NS = 2 * MILLISECOND
"""Time by which a request precedes the moment at which it can be granted: the voters defer it until then."""
LATE_NS = 3 * MILLISECOND
"""Time after that moment at which the request is repeated if it was not answered."""
SUSPECT_HEARTBEATS = 3
"""Number of missing heartbeats after which a member is suspect."""


@dataclass(frozen=True)
class Timers:
    """The durations of the election, nanoseconds."""

    heartbeat_ns: int
    duration_ns: int

    @property
    def hold_ns(self) -> int:
        """Return the hold time: how long a silent master is still followed."""
        return max(3 * REPORT_NS, 3 * self.duration_ns)

    @property
    def suspect_ns(self) -> int:
        """Return the time without a heartbeat after which a member is suspect."""
        return SUSPECT_HEARTBEATS * self.heartbeat_ns


class Acquisition:
    """The requests of one node for egress IPs without a master; ``owner`` sends them."""

    def __init__(self, node: str, incarnation: int, egress_ips: EgressIPs, owner: Owner) -> None:
        self._node = node
        self._incarnation = incarnation
        self._egress_ips = egress_ips
        self._owner = owner

    def try_acquire(
        self, identity: str, rank: int, alone: bool, epoch: int, timers: Timers, now: int
    ) -> bool:
        """Request an egress IP without a master, as candidate number ``rank``. Return True to send a request now.

        ``alone``: no other node can serve it. A candidate of a worse rank waits longer, but not for ever: a better one
        that sends no request must not block it.
        """
        record = self._egress_ips.record(identity)
        wait = record.wait = record.wait or Wait(now)
        wait.rank, wait.alone = rank, alone
        if record.phase is Phase.IDLE:
            self._egress_ips.transition(identity, Event.MASTERLESS)
        if record.lease is None:
            if now < _start(wait, timers):
                return False
            self._owner.ask(identity, epoch, now)
            return True
        if record.lease.retry_at and record.lease.retry_at <= now:
            record.lease.retry_at = 0
            return True
        return False

    def timed_out(self, identity: str, timers: Timers, now: int) -> bool:
        """Return True if requests for a whole lease time brought neither a lease nor a time to wait for."""
        record = self._egress_ips.find(identity)
        if record is None or record.phase is not Phase.REQUESTING or not record.lease or not record.wait:
            return False
        if record.lease.retry_at:
            return False
        return now - max(record.lease.asked_at, record.wait.answered_at) >= timers.duration_ns

    def withdraw(
        self,
        identity: str,
        event: Event,
        reason: str,
        target: str = "",
        shared: bool = False,
        unserved_ms: int = 0,
    ) -> Release | None:
        """End the request. Return the release of the grants that single voters may have given; None: there are none."""
        lease = self._owner.drop(identity, event)
        if lease is None:
            return None
        node, incarnation = self._node, self._incarnation
        return Release(identity, lease.epoch, node, incarnation, reason, target, shared, unserved_ms)

    def pause(self, identity: str, timers: Timers, now: int, lost: bool = False) -> None:
        """Pause after a failed election or a ``lost`` lease: otherwise a node that only sends would block all others.

        Each failure that follows within :data:`STEADY_NS` doubles the pause. If no other node can serve, only failed
        elections double it.
        """
        record = self._egress_ips.record(identity)
        wait = record.wait = record.wait or Wait(now)
        failures, end = record.failures
        failures = failures if now < end + STEADY_NS else 0
        jitter = rendezvous_hash(identity, self._node, "pause", str(failures)) % timers.heartbeat_ns
        wait.not_before = now + min(timers.duration_ns << min(failures, 10), MAX_PAUSE_NS) + jitter
        wait.alone_before = now + timers.duration_ns + jitter if lost else wait.not_before
        record.failures = failures + 1, wait.not_before

    def released(self, release: Release, now: int) -> None:
        """Note the release of an egress IP, and request the lease again at once."""
        record = self._egress_ips.admit(release.id)
        if record is None:
            return
        record.last_release = release
        if record.phase is Phase.REQUESTING and record.lease:
            # A request that is under way may arrive too early, or never.
            record.lease.retry_at = now

    def refresh_refusals(self, refused: Iterable[Refusal]) -> tuple[Refusal, ...]:
        """Return the refusals except those that a release has made invalid: a release may have overtaken the answer."""
        return tuple(
            Refusal(refusal.id, EPOCH, refusal.holder, refusal.epoch) if self._is_over(refusal) else refusal
            for refusal in refused
        )

    def _is_over(self, refusal: Refusal) -> bool:
        record = self._egress_ips.find(refusal.id)
        release = record.last_release if record else None
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
        """Handle a voter's refusals, and defer to another candidate with a better hash. Return the releases to send.

        ``former``: the last known masters by egress id; these are no candidates.
        """
        releases, refused_by_id = [], _by_id(refused)
        for record in self._egress_ips.in_phase(Phase.REQUESTING):
            identity = record.id
            if identity not in request.claims or not record.lease or not record.wait:
                continue
            wait, refusals = record.wait, refused_by_id.get(identity, [])
            for refusal in refusals:
                if refusal.why == EPOCH:
                    self._owner.exceed(identity, refusal.epoch)
            if any(self._defers(identity, r, former) for r in refusals):
                release = self.withdraw(identity, Event.DEFER, "another candidate was first")
                releases += [release] if release else []
                wait.not_before = now + timers.heartbeat_ns + self._jitter(identity, wait, timers)
                wait.alone_before = wait.not_before
                wait.tries += 1
                continue
            earliest = request.quorum.met_at(request.moments_of(identity))
            if earliest < NEVER:
                later = earliest + wait.rank * timers.heartbeat_ns
                record.lease.retry_at = _again(earliest, later, now)
                wait.answered_at = now
        return releases

    def next_wake(self, timers: Timers) -> int:
        """Return the moment of the next request that is not part of a periodic heartbeat."""
        requesting = self._egress_ips.in_phase(Phase.REQUESTING)
        moments = [each.lease.retry_at for each in requesting if each.lease and each.lease.retry_at]
        waiting = self._egress_ips.in_phase(Phase.WAITING)
        return min([*moments, *(_start(each.wait, timers) for each in waiting if each.wait)], default=NEVER)

    def _defers(self, identity: str, refusal: Refusal, former: dict[str, str]) -> bool:
        other = refusal.holder
        if refusal.why != HELD or other in (self._node, former.get(identity)):
            return False
        return rendezvous_hash(identity, other) < rendezvous_hash(identity, self._node)

    def _jitter(self, identity: str, wait: Wait, timers: Timers) -> int:
        return rendezvous_hash(identity, self._node, str(wait.tries)) % timers.heartbeat_ns


def _by_id(refused: Collection[Refusal]) -> dict[str, list[Refusal]]:
    found: dict[str, list[Refusal]] = {}
    for refusal in refused:
        found.setdefault(refusal.id, []).append(refusal)
    return found


def _start(wait: Wait, timers: Timers) -> int:
    """Return the moment of a candidate's first request."""
    # The best candidate gets the grants when the lease of the missing master has ended. A request of another candidate
    # in that very moment would split the votes.
    ended = max(timers.duration_ns - timers.suspect_ns, 0)
    paused_until = wait.alone_before if wait.alone else wait.not_before
    return max(wait.since + (ended + wait.rank * timers.heartbeat_ns if wait.rank else 0), paused_until)


def _again(earliest: int, later: int, now: int) -> int:
    """Return the moment of the next request. ``earliest``: voters can grant it; ``later``: this rank may ask."""
    if earliest <= now:
        # Only the epoch was too low. A request with this epoch would get the same answer.
        return now + MILLISECOND
    return later - EARLY_NS if now < later - EARLY_NS else later + LATE_NS
