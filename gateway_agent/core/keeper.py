"""The lease keeper as a state machine: datagrams, configuration and time in, datagrams and state out.

One heartbeat is everything at once: sign of life, request for leases, announcement of what is held. A node
that is no egress node sends none; it votes where it is asked to, and subscribes to the egress nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import msgspec

from .announcements import REPEAT_NS
from .candidate import Timers
from .chair import Chair
from .contact import NEVER_HEARD, Contact
from .elector import Elector
from .keeping import EgressWish, KeeperConfig
from .lease import DURATION, NEVER, SECOND, Claim, Verdict
from .mastership import Due, Mastership
from .membership import REPORT_NS, Member, Subscribers
from .outbox import Outbox, Send
from .placement import draw
from .standing import Situation
from .voters import CHAIR, Electorate, Memory
from .wire import Answer, Endpoint, Heartbeat, Key, Opened, Subscribe

SUSPECT_BEATS = 3
"""A member that was not heard for so many heartbeats is suspect."""
SUBSCRIBE_NS = 2 * SECOND
HANDOVER_NS = 2 * SECOND
"""How long a stopping node waits for its successors."""
ORPHAN_NS = 10 * SECOND
"""How long leases are kept without a sign of life of the agent; then they are handed over."""


@dataclass(frozen=True)
class Remember:
    """To be stored before anything that follows is sent."""

    memory: Memory


Effect = Send | Remember


class Keeper:
    """Every input gives the effects to carry out, in order. ``now``: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(
        self, config: KeeperConfig, key: Key, incarnation: int, memory: Memory | None, now: int
    ) -> None:
        """``incarnation``: a random number of 64 bits, not 0. ``memory``: of an earlier process, if any.

        The configuration takes effect with the first :meth:`configure`.
        """
        self.config = config
        self.members: dict[str, Member] = {}
        self.problems: dict[str, str] = {}
        self.endpoint = Endpoint(config.node, incarnation, key, {})
        self.electorate = Electorate(config.node, memory, now)
        self._me = config.node
        self._due = Due()
        self._elector = Elector(self.electorate, memory, config.duration_ns, now)
        self._contact = Contact(config, self.electorate, self._elector.silent_until, now)
        self._subscribers = Subscribers()
        self.mastership = Mastership(
            config.node, incarnation, self._elector, self._subscribers, _timers(config), self._due
        )
        self._chair = Chair(config.node)
        self._outbox = Outbox(self.endpoint)
        self._stored = memory
        self._stopping_at: int | None = None
        self._retired_at = NEVER_HEARD
        self._attended_at = now
        self._next_beat = self._next_report = self._next_subscribe = self._next_correction = now

    # Inputs

    def configure(self, config: KeeperConfig, key: Key, now: int, wall_offset_ns: int = 0) -> list[Effect]:
        """Takes on a new configuration, live. The node's name cannot change. Also a sign of life.

        ``wall_offset_ns``: what to add to ``now`` to get Unix time.
        """
        self.attend(now)
        self._expire(now)
        was_egress = self.is_egress
        self.config = config
        self.endpoint.key = key
        self.mastership.wall_offset_ns = wall_offset_ns
        peers = {p.name: p.address for p in config.peers if p.name != self._me}
        # Until it is known who cares, everybody is told: a master that has just started has no subscribers yet.
        for newcomer in peers.keys() - self.endpoint.peers.keys():
            self._subscribers.add(newcomer, now)
        self.endpoint.peers = peers
        self._contact.configure(config)
        if was_egress and not self.is_egress:
            self._retired_at = now
        self.members = {name: member for name, member in self.members.items() if name in self.egress_nodes}
        if config.stopping:
            self._stop(now)
        self._wish(now)
        # What changed, readiness above all, is told at once.
        self._due.beat = self._due.decision = True
        self._due.revision += 1
        return self._finish(now)

    def attend(self, now: int) -> None:
        """The agent has given a sign of life."""
        self._attended_at = now

    def receive(self, datagram: bytes, source: str, now: int) -> list[Effect]:
        """``source``: the address that the datagram came from."""
        self._expire(now)
        opened = self.endpoint.open(datagram, source, now)
        if opened.reply:
            self._outbox.reply(source, opened.reply)
        if opened.body is not None:
            self._contact.hear(opened.sender, now)
            if opened.met:
                self._subscribe([opened.sender])
            self._take(opened, now)
        return self._finish(now)

    def wake(self, now: int) -> list[Effect]:
        """To be called at :meth:`next_wake`, or whenever convenient."""
        self._expire(now)
        self.mastership.silence(now)
        if self._stopping_at is None and now >= self._attended_at + ORPHAN_NS:
            self._stop(now)
            self._wish(now)
        if now >= self._next_subscribe:
            self._subscribe(sorted({*self.egress_nodes, *self.electorate.current.members}))
            self._next_subscribe = now + self._subscription_pause()
        if self._contact.recover(now):
            self._voters_changed()
        if self._speaks(now) and now >= self._next_beat:
            following = self._next_beat + self.config.heartbeat_ns
            # Who was stopped does not make up for what it has missed.
            self._next_beat = following if following > now else now + self.config.heartbeat_ns
            self._due.beat = True
        if self._subscribers.due(now):
            self._due.beat = self._due.push = True
        self._due.decision = True
        return self._finish(now)

    def next_wake(self) -> int:
        retiring = self._next_beat < self._retired_at + REPEAT_NS
        return min(
            self.mastership.next_wake(),
            self._next_subscribe,
            self._next_beat if self.is_egress or retiring else NEVER,
            self._subscribers.next_push(),
            self._attended_at + ORPHAN_NS if self._stopping_at is None else NEVER,
        )

    # What can be asked of it

    @property
    def revision(self) -> int:
        """Grows when what :func:`gateway_agent.core.report.report` shows has changed."""
        return self._due.revision

    @property
    def egress_nodes(self) -> tuple[str, ...]:
        return self._contact.egress_nodes

    @property
    def is_egress(self) -> bool:
        return self._me in self.egress_nodes

    def isolated(self, now: int) -> bool:
        """An egress node that hears no majority of the voters."""
        return self.is_egress and self._contact.isolated(now)

    def finished(self, now: int) -> bool:
        """Stopping, and either everything has a new master or nobody takes it."""
        if self._stopping_at is None:
            return False
        return self.mastership.handed_over() or now >= self._stopping_at + HANDOVER_NS

    # Messages in

    def _take(self, opened: Opened, now: int) -> None:
        sender, body = opened.sender, opened.body
        if isinstance(body, Heartbeat | Answer | Subscribe) and self.electorate.hear(
            sender, body.voters, body.accepted, now
        ):
            self._voters_changed()
        if isinstance(body, Heartbeat):
            self._take_heartbeat(sender, body, now)
            if self._me in body.asked:
                answer = self._elector.vote(sender, opened.incarnation, body, self.config.duration_ns, now)
                self._outbox.put([sender], answer)
        elif isinstance(body, Answer):
            self._count(sender, body, now)
        elif isinstance(body, Subscribe):
            self._subscribers.add(sender, now)
            for identity, epoch, master in body.known:
                self.mastership.exceed(identity, epoch, master)
            self._outbox.put([sender], self._status(now))

    def _take_heartbeat(self, sender: str, beat: Heartbeat, now: int) -> None:
        self._contact.lengthen(beat.duration_ns)
        for release in beat.releases:
            self.mastership.take_release(release, now)
        if sender not in self.egress_nodes:
            return
        before = self.members.get(sender)
        member = self.members[sender] = Member(now, beat.isolated, beat.reason, beat.unready, beat.warming)
        if before is None or replace(before, heard_at=now) != member:
            self._due.decision = True
            self._due.revision += 1
        if self.mastership.followings.outranked(sender, beat.masters) and now >= self._next_correction:
            # It learns at once what is known here, and claims an epoch above.
            self._next_correction = now + self.config.heartbeat_ns // 2
            self._subscribe([sender])
        for mastery in beat.masters:
            self.mastership.meet_rival(sender, mastery, now)
        self.mastership.follow(sender, beat.masters, now)

    def _count(self, voter: str, answer: Answer, now: int) -> None:
        verdict = Verdict(answer.granted, answer.refused)
        request = self.mastership.owner.count(voter, answer.seq, verdict, now)
        if request is None:
            return
        self._contact.answer(voter, now)
        if any(refusal.why == DURATION for refusal in answer.refused):
            self.problems[f"duration {voter}"] = f"{voter} grants no lease as long as this node's"
        self.mastership.count(request, answer, now)
        if CHAIR in answer.granted:
            current = self.electorate.current
            decided = self._chair.count(
                voter, request, answer.accepted, current, lambda: self._contact.wanted_voters(now)
            )
            if decided and decided.version == current.version + 1:
                self.electorate.adopt(decided, now)
                self._voters_changed()

    # Decisions

    def _expire(self, now: int) -> None:
        # Of two nodes the one that is left need not spare others.
        self.mastership.expire(pausing=len(self.endpoint.peers) > 1, now=now)

    def _stop(self, now: int) -> None:
        if self._stopping_at is None:
            self._stopping_at = now

    def _wish(self, now: int) -> None:
        stopping = self._stopping_at is not None
        able, why = self.is_egress and not stopping, "stopping" if stopping else ""
        wishes = [
            msgspec.structs.replace(w, ready=w.ready and able, reason=why or w.reason or "not ready")
            for w in self.config.egress
        ]
        chair = EgressWish(CHAIR, "", "", self.egress_nodes, able, why)
        self.mastership.configure([*wishes, chair], _timers(self.config), stopping, now)

    def _decide(self, now: int) -> None:
        surviving = self._contact.surviving(now)
        barred = not self._contact.quorum(now).sets or (self._contact.isolated(now) and not surviving)
        suspect_ns = SUSPECT_BEATS * self.config.heartbeat_ns
        heard = {name: m for name, m in self.members.items() if now - m.heard_at <= suspect_ns}
        mastership = self.mastership
        situation = Situation(
            me=self._me,
            wishes=mastership.wishes,
            members=heard,
            masters=mastership.masters(heard),
            standing=self.is_egress and not barred,
            surviving=surviving,
            warming=mastership.warming(now),
        )
        mastership.decide(situation, now)

    def _voters_changed(self) -> None:
        self._due.beat |= self.is_egress
        self._due.decision = True
        self._due.revision += 1

    # Messages out

    def _finish(self, now: int) -> list[Effect]:
        # A request may be answered by the own vote alone, and its outcome is to be told at once.
        for _ in range(3):
            if self._due.decision:
                self._due.decision = False
                self._decide(now)
            if not self._due.beat:
                break
            self._due.beat = False
            if self._speaks(now):
                self._beat(now)
        memory = self._elector.memory(self._contact.longest_ns)
        if memory is None or memory == self._stored:
            return [*self._outbox.take()]
        self._stored = memory
        return [Remember(memory), *self._outbox.take()]

    def _speaks(self, now: int) -> bool:
        """An egress node does; one that was repeats for a while that it has let go."""
        return self.is_egress or now < self._retired_at + REPEAT_NS

    def _beat(self, now: int) -> None:
        request = self.mastership.owner.request(self._contact.quorum(now), self.config.duration_ns, now)
        claims = tuple(Claim(identity, epoch) for identity, epoch in request.claims.items())
        asked = request.quorum.asked
        beat = self._status(now, request.seq, asked, claims)
        receivers = {*self.egress_nodes, *asked}
        if self._due.push or now >= self._next_report:
            self._due.push = False
            self._next_report = now + REPORT_NS
            receivers.update(self._subscribers.current(now))
        self._outbox.put(sorted(receivers), beat)
        if self._me in asked:
            answer = self._elector.vote(self._me, self.endpoint.incarnation, beat, self.config.duration_ns, now)
            self._count(self._me, answer, now)

    def _status(
        self, now: int, seq: int = 0, asked: tuple[str, ...] = (), claims: tuple[Claim, ...] = ()
    ) -> Heartbeat:
        """What this node says of itself; with ``seq`` it is a request as well."""
        mastership = self.mastership
        mastership.announcements.limit(mastership.owner.held(now))
        stopping = "stopping" if self._stopping_at is not None else ""
        return Heartbeat(
            seq=seq,
            duration_ns=self.config.duration_ns,
            voters=self.electorate.current,
            accepted=self.electorate.accepted,
            asked=asked,
            claims=claims,
            releases=mastership.announcements.releases(now),
            isolated=self.isolated(now),
            reason=stopping or ("" if self.is_egress else "no egress node any more"),
            unready=mastership.unready(),
            masters=tuple(mastership.announcements.masteries.values()),
            proposal=self._chair.proposal,
            warming=mastership.warming(now),
        )

    def _subscribe(self, nodes: Iterable[str]) -> None:
        known = tuple(self.mastership.followings.known())
        self._outbox.put(nodes, Subscribe(self.electorate.current, self.electorate.accepted, known))

    def _subscription_pause(self) -> int:
        """Soon where this node still has to learn who votes; a little less than the period, by lot."""
        learning = self.electorate.recovering or self.electorate.current.version == 0
        pause = 2 * self.config.heartbeat_ns if learning else SUBSCRIBE_NS
        return pause - draw(self._me, str(self._next_subscribe)) % (pause // 4)


def _timers(config: KeeperConfig) -> Timers:
    return Timers(config.heartbeat_ns, config.duration_ns)
