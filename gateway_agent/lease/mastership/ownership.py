"""The egress IPs of one node: those that it owns, those that it requests, and the masters that it follows.

Inputs cause transitions of :mod:`..egress_ips.egress_ip`; only :class:`Ownership` knows all consequences of a
transition.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..egress_ips.due import Due
from ..egress_ips.egress_ip import CANDIDATE, LEASED, EgressIP, EgressIPs, Event, Phase
from ..ipc import EgressIPSpec
from ..messages.bodies import Answer, MasterAnnouncement
from ..placement.candidates import kept
from ..placement.lateness import Lateness
from ..placement.rebalance import Rebalance, Transfer
from ..voting.protocol import EPOCH, HELD, MILLISECOND, NEVER, Release, Request, Verdict, lease_end
from ..voting.voter_node import VoterNode
from ..voting.voter_set import PROPOSER_LEASE
from .ability import Ability
from .acquisition import Acquisition, Timers
from .handover import Handovers
from .masters import MasterTable
from .own_masters import OwnMasters
from .owner import Owner
from .subscribers import History, Subscribers


class Ownership:
    """The egress IPs of one node, with their leases, masters and handovers. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(
        self,
        me: str,
        incarnation: int,
        voter_node: VoterNode,
        subscribers: Subscribers,
        timers: Timers,
        due: Due,
    ) -> None:
        self.specs: dict[str, EgressIPSpec] = {}
        """Specs, by id, of the egress IPs that this node may serve or follows, the proposer's lease included."""
        self.timers = timers
        self.egress_ips = EgressIPs()
        self.owner = Owner(self.egress_ips)
        self.master_table = MasterTable(self.egress_ips)
        self.history = History()
        self.own_masters = OwnMasters(self.egress_ips, self.owner.running)
        self.wall_offset_ns = 0
        """Difference of Unix time to ``now``."""
        self._announced_of = -1
        """The version of the egress IPs whose announcements are those of the leases that run."""
        self._me = me
        self._voter_node = voter_node
        self._subscribers = subscribers
        self._due = due
        self.acquisition = Acquisition(me, incarnation, self.egress_ips, self.owner)
        self.stopping_since = NEVER
        """The moment at which this node began to stop."""
        self._handovers = Handovers(self.egress_ips)
        self.lateness = Lateness()
        self.ability = Ability(me, self.egress_ips, self.lateness)
        self.rebalance = Rebalance(me, self.egress_ips)

    def next_wake(self) -> int:
        """Return the moment of the next timer."""
        return min(
            self.owner.next_end(),
            self.acquisition.next_wake(self.timers),
            self.master_table.next_silence(self.timers.hold_ns),
            self._handovers.next_wake(),
            self.master_table.next_queue_timeout(),
        )

    # Configuration

    def configure(self, specs: Iterable[EgressIPSpec], timers: Timers, stopping: bool, now: int) -> None:
        """Replace the egress IPs that this node serves or follows.

        ``stopping``: this node may end only when other nodes have taken over all egress IPs that it releases from now
        on.
        """
        self.timers = timers
        self.egress_ips.version += 1
        self.specs = {spec.id: kept(spec, self.holds(spec.id, now)) for spec in specs}
        self.owner.fenced = frozenset(spec.id for spec in self.specs.values() if spec.address)
        for identity in self.specs:
            self.egress_ips.record(identity)
        for record in self.egress_ips:
            self._set_ready(record, now)
        self.ability.configure(self.specs)
        self.stopping_since = min(self.stopping_since, now) if stopping else NEVER

    def forget_old(self, now: int) -> None:
        """Drop the state of egress IPs that are gone, and of handovers and releases that are over."""
        self.egress_ips.prune(self.specs, now)
        self.master_table.forget_old()
        self._voter_node.forget({record.id for record in self.egress_ips}, now)
        self.rebalance.forget_old(now)
        self.own_masters.forget_old(now)

    def _set_ready(self, record: EgressIP, now: int) -> None:
        spec = self.specs.get(record.id)
        if spec and spec.ready:
            record.ready_since = now if record.ready_since is None else record.ready_since
            return
        record.ready_since = None
        if not (spec and spec.leaving and record.holds(now)):
            event = Event.UNABLE if record.phase in CANDIDATE else Event.RELEASE
            self.release(record.id, event, spec.reason if spec else "no longer configured", now)

    def handed_over(self) -> bool:
        """Return True if every egress IP that this node released in order to stop has a new master."""
        taken = all(
            self.master_table.of(record.id).epoch > record.handed_over_epoch
            for record in self.egress_ips
            if record.handed_over_epoch is not None
        )
        return taken and all(record.id == PROPOSER_LEASE for record in self.egress_ips.in_phase(*LEASED))

    def holds(self, identity: str, now: int) -> bool:
        """Return True if this node is master."""
        return self.egress_ips.holds(identity, now)

    # Handovers

    def hand_over(self, identity: str, transfer: Transfer, now: int) -> None:
        """Start the handover of an egress IP. No packet is lost if the workers queue their packets."""
        record = self.egress_ips.find(identity)
        if record is None or record.phase is not Phase.OWNING or not record.holds(now):
            return
        spec = self.specs[identity]
        # In basic mode this node forwards packets until the workers follow the target: no worker needs to queue.
        workers = (
            self._subscribers.carrying(identity, now) - {self._me} if spec.address and transfer.target else ()
        )
        self._handovers.start(identity, transfer, workers, now)
        if workers:
            self._announce_held(now)
        self.start_handover(now)

    def note_queueing(self, node: str, identities: Iterable[str], now: int) -> None:
        """Note that ``node`` queues the packets of these egress IPs."""
        self._handovers.note_queueing(node, identities, now)
        self.start_handover(now)

    def start_handover(self, now: int) -> None:
        """Release the egress IPs whose handover waits for no worker any more, or has timed out."""
        for identity, handover in self._handovers.ready(now):
            released = self.release(
                identity, Event.RELEASE, handover.reason, now, handover.target, shared=handover.shared
            )
            if released and self.stopping_since != NEVER and identity != PROPOSER_LEASE:
                self.egress_ips.record(identity).handed_over_epoch = released.epoch

    # Leases of this node

    def count(self, voter: str, answer: Answer, now: int) -> Request | None:
        """Count a voter's answer, which may make or renew leases. Return its request; None: the request is too old."""
        refused = self.acquisition.refresh_refusals(answer.refused)
        renewals = self.owner.running.renewals
        request = self.owner.count(voter, answer.seq, Verdict(answer.granted, refused), now)
        if request is None:
            return None
        for refusal in refused:
            if refusal.why in (HELD, EPOCH):
                self.master_table.note(refusal.id, refusal.epoch)
            if refusal.why == EPOCH:
                self.owner.exceed(refusal.id, refusal.epoch)
        former = {refusal.id: self.master_table.of(refusal.id).master for refusal in refused}
        for release in self.acquisition.on_answer(request, refused, former, self.timers, now):
            self._publish(release, now)
        if self.owner.running.renewals != renewals:
            self._announce_held(now)
        return request

    def _announce_held(self, now: int) -> None:
        held = self.owner.held(now)
        # With the same leases, each has its announcement already.
        for identity, lease in held.items() if self._announced_of != self.egress_ips.version else ():
            before, shown = self.master_table.of(identity), self.specs[identity].shown
            silent_ns = self.master_table.silent_ns(identity, self.timers.suspect_ns, now)
            record = self.egress_ips.record(identity)
            if self.own_masters.add(record, lease, shown, before, silent_ns, now + self.wall_offset_ns):
                record.wait = None
                self._push(now)
        self._announced_of = self.egress_ips.version
        self.follow(self._me, self.own_masters.announcements(now), now)

    def expire(self, pausing: bool, now: int) -> None:
        """Give up the leases that have ended. ``pausing``: pause afterwards, so that other nodes come first."""
        lost = self.owner.lost(now)
        if lost:
            self.lateness.lose(now)
        for identity in lost:
            # It is not known whether packets of this node have left since the request for that lease.
            lease = self.egress_ips.lease(identity)
            asked_at = lease.until - lease_end(0, lease.duration_ns) if lease else now
            reason = "its lease ended, no majority of the voters answered"
            self.release(identity, Event.EXPIRE, reason, now, unserved_ns=now - asked_at)
            if pausing:
                self.acquisition.pause(identity, self.timers, now, lost=True)

    def release(
        self,
        identity: str,
        event: Event,
        reason: str,
        now: int,
        target: str = "",
        unserved_ns: int = 0,
        shared: bool = False,
    ) -> Release | None:
        """End the lease or the request of an egress IP by ``event``, and announce it. Return the release of a lease.

        ``unserved_ns``: the time before ``now`` for which possibly no packet has left by the egress IP.
        """
        record = self.egress_ips.find(identity)
        if record is None or record.phase is Phase.IDLE:
            return None
        held = record.announced is not None
        unserved_ms = unserved_ns // MILLISECOND
        release = self.acquisition.withdraw(identity, event, reason, target, shared, unserved_ms)
        if release is None:
            return None
        if held:
            self.master_table.release(release, now)
            self._push(now)
        self._publish(release, now)
        return release if held else None

    def _publish(self, release: Release, now: int) -> None:
        self._voter_node.release(release, now)
        self.rebalance.on_release(release, now)
        self.own_masters.release(release, now)
        self._due.heartbeat = self._due.decision = True

    def _push(self, now: int) -> None:
        self._subscribers.push(now)
        self._due.push = True
        self._due.revision += 1

    # Messages of other nodes

    def follow(self, node: str, announcements: Iterable[MasterAnnouncement], now: int) -> None:
        """Follow the announcements of ``node``, which name every egress IP that it is master of."""
        for change in self.master_table.on_announcement(node, announcements, self.timers.hold_ns, now):
            self.history.add(change, now + self.wall_offset_ns)
            self._due.decision = True
            self._due.revision += 1
        self._due.decision |= self.master_table.given_up

    def silence(self, now: int) -> None:
        """Drop the masters that were silent for :attr:`.acquisition.Timers.hold_ns`."""
        self.master_table.end_queueing(now)
        for change in self.master_table.silence(self.timers.hold_ns, now):
            self.history.add(change, now + self.wall_offset_ns)
            self._due.revision += 1

    def take_release(self, release: Release, now: int) -> None:
        """Handle the release of another node."""
        self._voter_node.release(release, now)
        self.master_table.note(release.id, release.epoch)
        if self.master_table.release(release, now):
            self.rebalance.on_release(release, now)
            self.own_masters.release(release, now)
            self._due.revision += 1
        if release.id in self.specs:
            self.acquisition.released(release, now)
        self._due.decision = True

    def resolve_conflict(self, rival: str, announcement: MasterAnnouncement, now: int) -> None:
        """Give up an egress IP of which ``rival`` is master, too, unless a majority has granted this node's lease.

        If a majority has granted both leases, the announcement is old. If neither, both may be valid, and one node has
        to give up.
        """
        lease = self.egress_ips.lease(announcement.id)
        if lease is None or not lease.holds(now):
            return
        weaker = (lease.held_epoch, rival) < (announcement.epoch, self._me)
        if lease.without_quorum and (weaker or not announcement.without_quorum):
            self.release(announcement.id, Event.RELEASE, f"{rival} is master too", now)
        else:
            self.bump_epoch(announcement.id, announcement.epoch, rival)

    def give_up(self, identity: str, reason: str, now: int) -> None:
        """Give up an address that another machine has, unless a majority has granted this node's lease."""
        lease = self.egress_ips.lease(identity)
        if lease and lease.without_quorum:
            self.release(identity, Event.RELEASE, reason, now)

    def bump_epoch(self, identity: str, epoch: int, master: str) -> None:
        """Note an epoch that another node knows, and raise this node's own above that: the highest epoch is valid."""
        self.master_table.note(identity, epoch)
        lease = self.egress_ips.lease(identity)
        if lease and (epoch > lease.epoch or (epoch == lease.epoch and master not in ("", self._me))):
            self.owner.exceed(identity, epoch)
            self._due.heartbeat = True
