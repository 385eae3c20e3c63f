"""What a node is master of, what it asks for, and whom it follows."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from msgspec import structs

from ..ipc import EgressIPSpec
from ..messages.wire import Answer
from ..voting.protocol import EPOCH, HELD, NEVER, SECOND, Owner, Release, Request, Verdict, lease_end
from ..voting.voter_node import VoterNode
from ..voting.voter_set import PROPOSER_LEASE
from .acquisition import Acquisition, Timers
from .candidates import WARM_UP_NS, ElectionInput, candidates
from .handover import Handovers
from .lateness import Lateness
from .masterless import Masterless
from .masters import REPORT_NS, History, MasterAnnouncement, MasterTable, Subscribers
from .own_masters import OwnMasters
from .rebalance import Gift, Rebalance

STOP_TIMEOUT_NS = 1 * SECOND
"""How long a node that stops waits for another one to become able to serve."""


@dataclass
class Due:
    """What is to be done before an input has been dealt with."""

    decision: bool = False
    """Something has changed that decides who asks for what."""
    beat: bool = False
    push: bool = False
    """The subscribers are told too."""
    revision: int = 0
    """Grows when what others are shown has changed."""


class Ownership:
    """One node's. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(
        self,
        me: str,
        incarnation: int,
        elector: VoterNode,
        subscribers: Subscribers,
        timers: Timers,
        due: Due,
    ) -> None:
        self.specs: dict[str, EgressIPSpec] = {}
        """What this node is to serve or to follow, the chair included, by id."""
        self.timers = timers
        self.owner = Owner()
        self.master_table = MasterTable()
        self.history = History()
        self.own_masters = OwnMasters()
        self.wall_offset_ns = 0
        """What to add to ``now`` to get Unix time."""
        self._me = me
        self._voter_node = elector
        self._subscribers = subscribers
        self._due = due
        self._acquisition = Acquisition(me, incarnation, self.owner)
        self._ready_since: dict[str, int] = {}
        self._handed_over: dict[str, int] = {}
        self._stopping_since = NEVER
        self._handovers = Handovers()
        self._masterless = Masterless()
        self.lateness = Lateness()
        self.rebalance = Rebalance(me)

    @property
    def hold_ns(self) -> int:
        """How long a silent master stays the one followed."""
        return max(3 * REPORT_NS, 3 * self.timers.duration_ns)

    def next_wake(self) -> int:
        return min(
            self.owner.next_end(),
            self._acquisition.next_wake(self.timers),
            self.master_table.next_silence(self.hold_ns),
            self._handovers.next_wake(),
            self.master_table.next_unheld(),
        )

    # What this node wants

    def configure(self, wishes: Iterable[EgressIPSpec], timers: Timers, stopping: bool, now: int) -> None:
        """``stopping``: what is let go of from now on, others must have taken over before the end."""
        self.timers = timers
        self.specs = {wish.id: self._kept(wish, now) for wish in wishes}
        self.owner.fenced = frozenset(wish.id for wish in self.specs.values() if wish.address)
        ready = [identity for identity, wish in self.specs.items() if wish.ready]
        self._ready_since = {identity: self._ready_since.get(identity, now) for identity in ready}
        for identity in list(self.owner.tenures):
            wish = self.specs.get(identity)
            if identity not in ready and not (wish and wish.leaving and self.holds(identity, now)):
                self._release(identity, wish.reason if wish else "no longer configured", now)
        self._stopping_since = min(self._stopping_since, now) if stopping else NEVER

    def forget(self, configured: Collection[str], now: int) -> None:
        """Drop what is known of egress IPs that are gone. ``configured``: all that were there since the last call.

        To be called no more often than each :data:`gateway_agent.lease.messages.limits.FORGET_NS`.
        """
        self.master_table.forget(configured)
        self.owner.forget(configured)
        self._acquisition.forget(configured)
        self.rebalance.forget(configured)
        self.own_masters.releases(now)
        self._voter_node.forget({*configured, *self.master_table.all_highest()}, now)

    def _kept(self, wish: EgressIPSpec, now: int) -> EgressIPSpec:
        """Whoever asked may not know yet that this node is master by now."""
        if wish.keeps and not wish.leaving and self.holds(wish.id, now):
            return structs.replace(wish, ready=True, reason="")
        return wish

    def warming(self, now: int) -> tuple[str, ...]:
        """Return the ids for which this node stands behind others: it has become ready only just now, or is late."""
        late = self.lateness.is_late(now)
        return tuple(i for i, since in self._ready_since.items() if late or now < since + WARM_UP_NS)

    def unready(self) -> dict[str, str]:
        """Why this node cannot serve what it is eligible for, by egress id."""
        wishes = self.specs.values()
        return {
            w.id: w.reason
            for w in wishes
            if not w.ready and self._me in w.eligible and w.id != PROPOSER_LEASE
        }

    def handed_over(self) -> bool:
        """Whether all that was let go of in order to stop has a new master."""
        taken = all(self.master_table.of(i).epoch > epoch for i, epoch in self._handed_over.items())
        return taken and not self._handovers and not (self.owner.tenures.keys() - {PROPOSER_LEASE})

    def holds(self, identity: str, now: int) -> bool:
        tenure = self.owner.tenures.get(identity)
        return tenure is not None and tenure.holds(now)

    def not_owned(self, now: int) -> list[EgressIPSpec]:
        return [wish for identity, wish in self.specs.items() if not self.holds(identity, now)]

    def masters(self, members: Collection[str]) -> dict[str, str]:
        """The healthy masters by egress id, this node not among them. ``members``: those that are heard."""
        followed = {identity: self.master_table.of(identity) for identity in self.specs}
        return {i: f.master for i, f in followed.items() if f.master in members and f.gone is None}

    def decide(self, situation: ElectionInput, now: int) -> None:
        """Asks for what is homeless and this node's turn; hands over what it is not to keep."""
        masters = {**situation.masters, **dict.fromkeys(self.owner.held(now), self._me)}
        known = [identity for identity in self.specs if identity != PROPOSER_LEASE]
        self._masterless.look(known, masters, situation.heirs, self.rebalance.shared(), now)
        situation = replace(situation, fresh=self._masterless.fresh(now))
        if not self._undecided(situation, now):
            return
        order = candidates(replace(situation, masters=masters))
        returning = any(wish.failback for wish in self.specs.values())
        ideal = candidates(replace(situation, masters={}, heirs={}, fresh={})) if returning else {}
        for identity, wish in self.specs.items():
            if self.holds(identity, now):
                orders = order[identity], ideal.get(identity, ())
                sharing = not self._handovers and not self._masterless
                patient = self._patient(wish, situation, now)
                gift = self.rebalance.target(wish, *orders, situation, masters, sharing, patient, now)
                if gift.reason:
                    self.hand_over(identity, gift, now)
            elif identity in situation.masters:
                self._release(identity, f"{situation.masters[identity]} is master", now)
                self._acquisition.reset(identity)
            elif self._me not in order[identity]:
                self._release(identity, "not ready", now)
                self._acquisition.suspend(identity)
            elif self._acquisition.timed_out(identity, self.timers, now):
                self._release(identity, "no majority of the voters answered", now)
                self._acquisition.pause(identity, self.timers, now)
            else:
                rank, epoch = order[identity].index(self._me), self.master_table.highest(identity) + 1
                alone = len(order[identity]) == 1
                self._due.beat |= self._acquisition.try_acquire(
                    identity, rank, alone, epoch, self.timers, now
                )

    def _patient(self, wish: EgressIPSpec, situation: ElectionInput, now: int) -> bool:
        """Whether what this node is to leave stays until somebody can serve it: nobody gains by an earlier end."""
        if self._stopping_since == NEVER:
            return self._me in wish.eligible
        return now < self._stopping_since + STOP_TIMEOUT_NS and any(
            node in situation.members for node in wish.eligible
        )

    def _undecided(self, situation: ElectionInput, now: int) -> bool:
        """Whether there is anything to decide: with many egress IPs, looking at all takes milliseconds."""
        return any(
            self.rebalance.is_open(wish, situation)
            if self.holds(identity, now)
            else self._is_open(identity, situation)
            for identity, wish in self.specs.items()
        )

    def _is_open(self, identity: str, situation: ElectionInput) -> bool:
        return (
            identity not in situation.masters
            or identity in self.owner.tenures
            or self._acquisition.waits(identity)
        )

    # What this node hands over

    def hand_over(self, identity: str, gift: Gift, now: int) -> None:
        """Lets the heir have it (empty: whoever can), without a packet lost where the workers hold theirs back."""
        if identity in self._handovers or not self.holds(identity, now):
            return
        wish = self.specs[identity]
        # In basic mode this node's kernel goes on forwarding until the workers follow the heir: nobody needs to wait.
        workers = self._subscribers.carrying(identity, now) - {self._me} if wish.address and gift.heir else ()
        self._handovers.start(identity, gift, workers, now)
        if workers:
            self._announce_held(now)
        self.start_handover(now)

    def is_queueing(self, node: str, identities: Iterable[str], now: int) -> None:
        """``node`` says that it holds the packets of these."""
        self._handovers.worker_is_queueing(node, identities, now)
        self.start_handover(now)

    def start_handover(self, now: int) -> None:
        """Releases what need not wait any longer."""
        for identity, departure in self._handovers.ready(now):
            self._handovers.end(identity)
            released = self._release(identity, departure.reason, now, departure.heir, shared=departure.shared)
            if released and self._stopping_since != NEVER and identity != PROPOSER_LEASE:
                self._handed_over[identity] = released.epoch

    # What this node holds

    def count(self, voter: str, answer: Answer, now: int) -> Request | None:
        """Counts a voter's answer; a lease is perhaps made or extended by it. The request; None: it is too late."""
        refused = self._acquisition.refresh_refusals(answer.refused)
        request = self.owner.count(voter, answer.seq, Verdict(answer.granted, refused), now)
        if request is None:
            return None
        for refusal in refused:
            if refusal.why in (HELD, EPOCH):
                self.master_table.note(refusal.id, refusal.epoch)
            if refusal.why == EPOCH:
                self.owner.exceed(refusal.id, refusal.epoch)
        former = {identity: self.master_table.of(identity).master for identity in request.claims}
        for release in self._acquisition.on_answer(request, refused, former, self.timers, now):
            self._publish(release, now)
        self._announce_held(now)
        return request

    def _announce_held(self, now: int) -> None:
        held = self.owner.held(now)
        for identity, tenure in held.items():
            before, shown = self.master_table.of(identity), self.specs[identity].shown
            leaving = identity in self._handovers
            silent_ns = before.silent_ns(self.timers.suspect_ns, now)
            wall_ns = now + self.wall_offset_ns
            if self.own_masters.add(identity, tenure, shown, leaving, before, silent_ns, wall_ns):
                self._acquisition.reset(identity)
                self._push(now)
        self.own_masters.retain(held)
        self.follow(self._me, self.own_masters.masteries.values(), now)

    def expire(self, pausing: bool, now: int) -> None:
        """Gives up what has ended. ``pausing``: there may be others that shall have their turn."""
        lost = self.owner.lost(now)
        if lost:
            self.lateness.lose(now)
        for identity in lost:
            # Nothing is known of what became of this node's packets since it asked for that lease.
            tenure = self.owner.tenures[identity]
            asked_at = tenure.until - lease_end(0, tenure.duration_ns)
            reason = "its lease ended, no majority of the voters answered"
            self._release(identity, reason, now, silent_since=asked_at)
            if pausing:
                self._acquisition.pause(identity, self.timers, now, lost=True)

    def _release(
        self,
        identity: str,
        reason: str,
        now: int,
        heir: str = "",
        silent_since: int = 0,
        shared: bool = False,
    ) -> Release | None:
        """Hold or ask for it no longer, and say so. Return the release, if it was held.

        ``silent_since``: from when on it may not have been served; 0: from now on.
        """
        self._handovers.end(identity)
        release = self._acquisition.withdraw(identity, reason, heir, shared)
        if release is None:
            return None
        held = self.own_masters.remove(identity)
        if held:
            self.master_table.release(
                identity, self._me, release.epoch, reason, bool(heir), silent_since or now
            )
            self._push(now)
        self._publish(release, now)
        return release if held else None

    def _publish(self, release: Release, now: int) -> None:
        self._voter_node.release(release, now)
        self.rebalance.on_release(release, now)
        self.own_masters.release(release, now)
        self._due.beat = self._due.decision = True

    def _push(self, now: int) -> None:
        self._subscribers.push(now)
        self._due.push = True
        self._due.revision += 1

    # What others say

    def follow(self, node: str, masteries: Iterable[MasterAnnouncement], now: int) -> None:
        """Takes in all that ``node`` is master of."""
        here = [i for i in self.specs if self.master_table.of(i).gone is None]
        for turn in self.master_table.on_announcement(node, masteries, self.hold_ns, now):
            self.history.turn(turn, now + self.wall_offset_ns)
            self._due.decision = True
            self._due.revision += 1
        if any(self.master_table.of(i).gone is not None for i in here):
            self._due.decision = True

    def silence(self, now: int) -> None:
        """Gives up the masters that were not heard for :attr:`hold_ns`."""
        self.master_table.end_holds(now)
        for turn in self.master_table.silence(self.hold_ns, now):
            self.history.turn(turn, now + self.wall_offset_ns)
            self._due.revision += 1

    def take_release(self, release: Release, now: int) -> None:
        self._voter_node.release(release, now)
        self.master_table.note(release.id, release.epoch)
        planned = bool(release.heir)
        if self.master_table.release(release.id, release.node, release.epoch, release.reason, planned, now):
            self.rebalance.on_release(release, now)
            self.own_masters.release(release, now)
            self._due.revision += 1
        if release.id in self.specs:
            self._acquisition.released(release, now)
        self._due.decision = True

    def resolve_conflict(self, rival: str, mastery: MasterAnnouncement, now: int) -> None:
        """Another one says that it is master of what this node holds.

        With a majority on both sides that is a word from the past. On their own votes both may be right; one
        has to let go.
        """
        tenure = self.owner.tenures.get(mastery.id)
        if tenure is None or not tenure.holds(now):
            return
        weaker = (tenure.held_epoch, rival) < (mastery.epoch, self._me)
        if tenure.survivor and (weaker or not mastery.survivor):
            self._release(mastery.id, f"{rival} is master too", now)
        else:
            self.bump_epoch(mastery.id, mastery.epoch, rival)

    def give_up(self, identity: str, reason: str, now: int) -> None:
        """Somebody else has the address. With a majority behind it this node is in the right; else it lets go."""
        tenure = self.owner.tenures.get(identity)
        if tenure and tenure.survivor:
            self._release(identity, reason, now)

    def bump_epoch(self, identity: str, epoch: int, master: str) -> None:
        """Somebody knows of this epoch. The highest is right: what this node holds must be above."""
        self.master_table.note(identity, epoch)
        tenure = self.owner.tenures.get(identity)
        if tenure and (epoch > tenure.epoch or (epoch == tenure.epoch and master not in ("", self._me))):
            self.owner.exceed(identity, epoch)
            self._due.beat = True
