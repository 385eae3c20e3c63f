"""The lease keeper as a state machine: datagrams, configuration and time in, datagrams and state out.

One heartbeat is everything at once: sign of life, request for leases, announcement of what is held. A node
that is no egress node sends none; it votes where it is asked to, and subscribes to the egress nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import msgspec

from .candidate import Candidate, Timers
from .chair import Chair
from .elector import Elector
from .keeping import EgressWish, KeeperConfig
from .lease import (
    DURATION,
    EPOCH,
    HELD,
    MILLISECOND,
    NEVER,
    SECOND,
    Claim,
    Owner,
    Quorum,
    Release,
    Tenure,
    Verdict,
)
from .membership import REPORT_NS, Followings, History, Mastery, Member, Subscribers
from .placement import draw, placement
from .voters import CHAIR, Electorate, Memory, VoterSet, first_voters, next_voters
from .wire import Answer, Endpoint, Heartbeat, Key, Opened, Subscribe, encode

SUSPECT_BEATS = 3
"""A member that was not heard for so many heartbeats is suspect."""
SUBSCRIBE_NS = 2 * SECOND
NEAR_NS = 5 * SECOND
"""A node that was heard within this can become a voter: each node subscribes every two seconds."""
DEAD_NS = 10 * SECOND
"""A voter that was not heard for so long is replaced."""
LONELY_NS = 3 * SECOND
"""``AvailabilityFirst``: how long a majority must have stayed away."""
HANDOVER_NS = 2 * SECOND
"""How long a stopping node waits for its successors."""
REPEAT_NS = 1 * SECOND
"""How long a release is repeated in each heartbeat."""
NEVER_HEARD = -NEVER


@dataclass(frozen=True)
class Send:
    address: str
    data: bytes


@dataclass(frozen=True)
class Remember:
    """To be stored before anything that follows is sent."""

    memory: Memory


Effect = Send | Remember


class Keeper:
    """Every input gives the effects to carry out, in order. ``now``: ``CLOCK_BOOTTIME``, nanoseconds.

    ``revision`` grows when what :func:`gateway_agent.core.report.report` shows has changed.
    """

    def __init__(
        self, config: KeeperConfig, key: Key, incarnation: int, memory: Memory | None, now: int
    ) -> None:
        """``incarnation``: a random number of 64 bits, not 0. ``memory``: of an earlier process, if any.

        The configuration takes effect with the first :meth:`configure`.
        """
        self.config = config
        self.wishes: dict[str, EgressWish] = {}
        """What this node is to serve or to follow, the chair included, by id."""
        self.egress_nodes: tuple[str, ...] = ()
        self.members: dict[str, Member] = {}
        self.wall_offset_ns = 0
        """What to add to ``now`` to get Unix time."""
        self.revision = 0
        self.problems: dict[str, str] = {}
        self.history = History()
        self.endpoint = Endpoint(config.node, incarnation, key, {})
        self.owner = Owner()
        self.electorate = Electorate(config.node, memory, now)
        self.followings = Followings()
        self._me = config.node
        self._started_at = now
        self._candidate = Candidate(config.node, incarnation, self.owner)
        self._chair = Chair(config.node)
        self._elector = Elector(self.electorate, memory, config.duration_ns, now)
        self._subscribers = Subscribers()
        self._stored = memory
        self._longest_ns = config.duration_ns
        self._heard: dict[str, int] = {}
        self._answered: dict[str, int] = {}
        self._masteries: dict[str, Mastery] = {}
        self._releases: dict[tuple[str, str], tuple[Release, int]] = {}
        self._stopping_at: int | None = None
        self._handed_over: dict[str, int] = {}
        self._next_beat = self._next_report = self._next_subscribe = now
        self._beat_due = self._push_due = self._dirty = False
        self._out: list[Send] = []

    # Inputs

    def configure(self, config: KeeperConfig, key: Key, now: int) -> list[Effect]:
        """Takes on a new configuration, live. The node's name cannot change."""
        self._expire(now)
        self.config = config
        self.endpoint.key = key
        peers = {p.name: p.address for p in config.peers if p.name != self._me}
        # Until it is known who cares, everybody is told: a master that has just started has no subscribers yet.
        for newcomer in peers.keys() - self.endpoint.peers.keys():
            self._subscribers.add(newcomer, now)
        self.endpoint.peers = peers
        self.egress_nodes = tuple(sorted(peer.name for peer in config.peers if peer.egress))
        self.members = {name: member for name, member in self.members.items() if name in self.egress_nodes}
        self.electorate.suggest(first_voters(self.egress_nodes, [peer.name for peer in config.peers]))
        self._longest_ns = max(self._longest_ns, config.duration_ns)
        if config.stopping and self._stopping_at is None:
            self._stopping_at = now
        self._wish()
        for identity in list(self.owner.tenures):
            wish = self.wishes.get(identity)
            if wish is None or not wish.ready:
                self._let_go(identity, wish.reason if wish else "no longer configured", now)
        # What changed, readiness above all, is told at once.
        self._beat_due = self._dirty = True
        self.revision += 1
        return self._finish(now)

    def receive(self, datagram: bytes, source: str, now: int) -> list[Effect]:
        """``source``: the address that the datagram came from."""
        self._expire(now)
        opened = self.endpoint.open(datagram, source, now)
        if opened.reply:
            self._out.append(Send(source, opened.reply))
        if opened.body is not None:
            self._heard[opened.sender] = now
            if opened.met:
                self._subscribe([opened.sender])
            self._take(opened, now)
        return self._finish(now)

    def wake(self, now: int) -> list[Effect]:
        """To be called at :meth:`next_wake`, or whenever convenient."""
        self._expire(now)
        for turn in self.followings.silence(self.hold_ns, now):
            self.history.turn(turn, now + self.wall_offset_ns)
            self.revision += 1
        if now >= self._next_subscribe:
            self._subscribe(sorted({*self.egress_nodes, *self.electorate.current.members}))
            self._next_subscribe = now + self._subscription_pause()
        if self.electorate.recover(now):
            self._voters_changed()
        if self.is_egress and now >= self._next_beat:
            self._next_beat = max(self._next_beat + self.config.heartbeat_ns, now + MILLISECOND)
            self._beat_due = True
        if self._subscribers.due(now):
            self._beat_due = self._push_due = True
        self._dirty = True
        return self._finish(now)

    def next_wake(self) -> int:
        return min(
            self.owner.next_end(),
            self._candidate.next_wake(self.timers),
            self._next_subscribe,
            self._next_beat if self.is_egress else NEVER,
            self._subscribers.next_push(),
            self.followings.next_silence(self.hold_ns),
        )

    # What can be asked of it

    @property
    def timers(self) -> Timers:
        return Timers(self.config.heartbeat_ns, self.config.duration_ns)

    @property
    def hold_ns(self) -> int:
        """How long a silent master stays the one followed."""
        return max(3 * REPORT_NS, 3 * self.config.duration_ns)

    @property
    def is_egress(self) -> bool:
        return self._me in self.egress_nodes

    def isolated(self, now: int) -> bool:
        """An egress node that hears no majority of the voters."""
        return self.is_egress and now - self._majority_heard_at() > self.config.duration_ns

    def finished(self, now: int) -> bool:
        """Stopping, and either everything has a new master or nobody takes it."""
        if self._stopping_at is None:
            return False
        waiting = [i for i, epoch in self._handed_over.items() if self.followings.of(i).epoch <= epoch]
        return not waiting or now >= self._stopping_at + HANDOVER_NS

    def suspect(self, node: str, now: int) -> bool:
        """Whether an egress node has missed too many heartbeats."""
        member = self.members.get(node)
        return member is None or now - member.heard_at > SUSPECT_BEATS * self.config.heartbeat_ns

    # Messages

    def _take(self, opened: Opened, now: int) -> None:
        sender, body = opened.sender, opened.body
        if isinstance(body, Heartbeat | Answer | Subscribe) and self.electorate.hear(
            sender, body.voters, body.accepted, now
        ):
            self._voters_changed()
        if isinstance(body, Heartbeat):
            self._take_heartbeat(opened.sender, body, now)
            if self._me in body.asked:
                answer = self._elector.vote(sender, opened.incarnation, body, self.config.duration_ns, now)
                self._send([sender], answer)
        elif isinstance(body, Answer):
            self._count(sender, body, now)
        elif isinstance(body, Subscribe):
            self._subscribers.add(sender, now)
            for identity, epoch, master in body.known:
                self._exceed(identity, epoch, master)
            self._send([sender], self._status(now))

    def _take_heartbeat(self, sender: str, beat: Heartbeat, now: int) -> None:
        self._longest_ns = max(self._longest_ns, beat.duration_ns)
        for release in beat.releases:
            self._take_release(release, now)
        if sender not in self.egress_nodes:
            return
        before = self.members.get(sender)
        member = self.members[sender] = Member(now, beat.isolated, beat.reason, beat.unready)
        if before is None or replace(before, heard_at=now) != member:
            self._dirty = True
            self.revision += 1
        if self.followings.outranked(beat.masters):
            self._next_subscribe = min(self._next_subscribe, now + self.config.heartbeat_ns)
        for mastery in beat.masters:
            self._meet_rival(sender, mastery, now)
        self._follow(sender, beat.masters, now)

    def _take_release(self, release: Release, now: int) -> None:
        self._elector.release(release, now)
        self.followings.note(release.id, release.epoch)
        if self.followings.release(release.id, release.node, release.epoch, release.reason):
            self._releases[release.id, release.node] = (release, now)
            self.revision += 1
        self._candidate.released(release.id, now)
        self._dirty = True

    def _meet_rival(self, sender: str, mastery: Mastery, now: int) -> None:
        """Another one says that it is master of what this node holds.

        With a majority on both sides that is a word from the past. On their own votes both may be right; one
        has to let go.
        """
        tenure = self.owner.tenures.get(mastery.id)
        if tenure is None or not tenure.holds(now):
            return
        weaker = (tenure.held_epoch, sender) < (mastery.epoch, self._me)
        if tenure.survivor and (weaker or not mastery.survivor):
            self._let_go(mastery.id, f"{sender} is master too", now)
        else:
            self._exceed(mastery.id, mastery.epoch, sender)

    def _exceed(self, identity: str, epoch: int, master: str) -> None:
        """Somebody knows of this epoch. The highest is right: what this node holds must be above."""
        self.followings.note(identity, epoch)
        tenure = self.owner.tenures.get(identity)
        if tenure and (epoch > tenure.epoch or (epoch == tenure.epoch and master not in ("", self._me))):
            self.owner.exceed(identity, epoch)
            self._beat_due = True

    def _follow(self, node: str, masteries: Iterable[Mastery], now: int) -> None:
        gone = [i for i in self.wishes if self.followings.of(i).gone is None]
        for turn in self.followings.hear(node, masteries, self.hold_ns, now):
            self.history.turn(turn, now + self.wall_offset_ns)
            self._dirty = True
            self.revision += 1
        if any(self.followings.of(i).gone is not None for i in gone):
            self._dirty = True

    # Votes

    def _count(self, voter: str, answer: Answer, now: int) -> None:
        request = self.owner.count(voter, answer.seq, Verdict(answer.granted, answer.refused), now)
        if request is None:
            return
        self._answered[voter] = now
        for refusal in answer.refused:
            if refusal.why in (HELD, EPOCH):
                self.followings.note(refusal.id, refusal.epoch)
            if refusal.why == EPOCH:
                self.owner.exceed(refusal.id, refusal.epoch)
            if refusal.why == DURATION:
                self.problems[f"duration {voter}"] = f"{voter} grants no lease as long as this node's"
        former = {identity: self.followings.of(identity).master for identity in request.claims}
        for release in self._candidate.told(request, answer.refused, former, self.timers, now):
            self._publish(release, now)
        self._announce(now)
        if CHAIR in answer.granted:
            current = self.electorate.current
            decided = self._chair.count(
                voter, request, answer.accepted, current, lambda: self._wanted_voters(now)
            )
            if decided and decided.version == current.version + 1:
                self.electorate.adopt(decided, now)
                self._voters_changed()

    def _announce(self, now: int) -> None:
        """Tells of what this node has become master of, or holds with another epoch."""
        held = self.owner.held(now)
        for identity, tenure in held.items():
            told = self._masteries.get(identity)
            shown = self.wishes[identity].shown
            if told and (told.epoch, told.survivor, told.shown) == (tenure.held_epoch, tenure.survivor, shown):
                continue
            self._masteries[identity] = (
                self._take_over(identity, tenure, now)
                if told is None
                else Mastery(identity, tenure.held_epoch, told.since, tenure.survivor, told.reason, 0, shown)
            )
            self._candidate.settle(identity)
            self._push(now)
        self._masteries = {identity: m for identity, m in self._masteries.items() if identity in held}
        self._follow(self._me, self._masteries.values(), now)

    def _take_over(self, identity: str, tenure: Tenure, now: int) -> Mastery:
        before = self.followings.of(identity)
        silent_ms = (now - before.heard_at) // MILLISECOND if before.epoch and not before.gone else 0
        if before.epoch == 0:
            reason = "first master"
        else:
            reason = before.gone or before.lost or f"{before.master} unheard for {silent_ms} ms"
        if tenure.survivor:
            reason += "; no majority of the voters answers"
        since = (now + self.wall_offset_ns) / SECOND
        shown = self.wishes[identity].shown
        return Mastery(identity, tenure.held_epoch, since, tenure.survivor, reason, silent_ms, shown)

    def _expire(self, now: int) -> None:
        for identity in self.owner.lost(now):
            self._let_go(identity, "its lease ended, no majority of the voters answered", now)
            # Of two nodes the one that is left need not spare others.
            if len(self.endpoint.peers) > 1:
                self._candidate.pause(identity, self.timers, now)

    def _let_go(self, identity: str, reason: str, now: int) -> None:
        """Holds or asks for it no longer, and says so."""
        release = self._candidate.withdraw(identity, reason)
        if release is None:
            return
        if self._masteries.pop(identity, None):
            self.followings.release(identity, self._me, release.epoch, reason)
            self._push(now)
            if self._stopping_at is not None and identity != CHAIR:
                self._handed_over[identity] = release.epoch
        self._publish(release, now)

    def _publish(self, release: Release, now: int) -> None:
        self._elector.release(release, now)
        self._releases[release.id, release.node] = (release, now)
        self._beat_due = self._dirty = True

    def _push(self, now: int) -> None:
        self._subscribers.push(now)
        self._beat_due = self._push_due = True
        self.revision += 1

    # Decisions

    def _consider(self, now: int) -> None:
        """Asks for what is homeless and this node's turn."""
        self._dirty = False
        surviving = self._surviving(now)
        standing = self.is_egress and bool(self._quorum(now).sets) and (surviving or not self.isolated(now))
        ready = {i: self._ready(wish, standing, surviving, now) for i, wish in self.wishes.items()}
        masters = {i: self.followings.of(i).master for i in self.wishes if self._healthy(i, now)}
        order = self._order(ready, masters)
        for identity in self.wishes:
            tenure = self.owner.tenures.get(identity)
            if tenure and tenure.holds(now):
                continue
            if identity in masters:
                self._let_go(identity, f"{masters[identity]} is master", now)
                self._candidate.settle(identity)
            elif self._me not in order[identity]:
                self._let_go(identity, "not ready", now)
                self._candidate.rest(identity)
            elif self._candidate.fruitless(identity, self.timers, now):
                self._let_go(identity, "no majority of the voters answered", now)
                self._candidate.pause(identity, self.timers, now)
            else:
                rank, epoch = order[identity].index(self._me), self.followings.highest(identity) + 1
                self._beat_due |= self._candidate.stand(identity, rank, epoch, self.timers, now)

    def _order(self, ready: dict[str, list[str]], masters: dict[str, str]) -> dict[str, tuple[str, ...]]:
        # The chair is no load.
        eligible = {identity: wish.eligible for identity, wish in self.wishes.items() if identity != CHAIR}
        chair = {CHAIR: self.egress_nodes}
        return {**placement(eligible, ready, masters), **placement(chair, ready, masters)}

    def _ready(self, wish: EgressWish, standing: bool, surviving: bool, now: int) -> list[str]:
        """The nodes that can serve it, as far as this one knows."""
        ready = [self._me] if wish.ready and standing and not (surviving and wish.id == CHAIR) else []
        for name in wish.eligible:
            member = self.members.get(name)
            if member and not self.suspect(name, now) and member.ready_for(wish.id):
                ready += [name] if surviving or not member.isolated else []
        return ready

    def _healthy(self, identity: str, now: int) -> bool:
        """Whether another node is master, as far as this one knows."""
        following = self.followings.of(identity)
        other = following.master not in ("", self._me)
        return other and following.gone is None and not self.suspect(following.master, now)

    def _majority_heard_at(self) -> int:
        """Since then a majority of the voters has answered."""
        members = self.electorate.current.members
        moments = sorted((self._answered.get(m, NEVER_HEARD) for m in members), reverse=True)
        return moments[len(members) // 2] if members else NEVER_HEARD

    def _surviving(self, now: int) -> bool:
        """Whether this node may be master on the votes that are left: the rule for few nodes."""
        duration_ns = self.config.duration_ns
        unheard_ns = now - max(self._majority_heard_at(), self._started_at)
        if unheard_ns <= duration_ns or self.electorate.recovering or now < self._elector.silent_until:
            return False
        if self.config.availability_first and unheard_ns >= LONELY_NS:
            return True
        heard = [self._heard.get(name, NEVER_HEARD) for name in self.endpoint.peers]
        return len(heard) <= 1 and all(now - at > duration_ns for at in heard)

    def _quorum(self, now: int) -> Quorum:
        quorum = self.electorate.quorum(self._longest_ns, now)
        if not self._surviving(now):
            return quorum
        left = [m for m in quorum.asked if now - self._answered.get(m, NEVER_HEARD) <= self.config.duration_ns]
        sets = (tuple(sorted({*left, self._me})),)
        return Quorum(quorum.version, sets, tuple(sorted({*quorum.asked, self._me})), survivor=True)

    def _wanted_voters(self, now: int) -> VoterSet | None:
        """The change of the voter set that this node would propose as chair."""
        settled = max(SECOND, 2 * self._longest_ns)
        if now < self.electorate.learned_at + settled:
            return None
        names = [peer.name for peer in self.config.peers]
        unheard = {n: 0 if n == self._me else now - self._heard.get(n, self._started_at) for n in names}
        alive = [n for n in names if n == self._me or (n in self._heard and unheard[n] < NEAR_NS)]
        dead = [n for n in names if unheard[n] >= DEAD_NS]
        return next_voters(self.electorate.current, self.egress_nodes, names, alive, dead)

    def _voters_changed(self) -> None:
        self._beat_due = self.is_egress
        self._dirty = True
        self.revision += 1

    def _wish(self) -> None:
        able = self.is_egress and self._stopping_at is None
        why = "stopping" if self._stopping_at is not None else ""
        wishes = [
            msgspec.structs.replace(w, ready=w.ready and able, reason=why or w.reason or "not ready")
            for w in self.config.egress
        ]
        chair = EgressWish(CHAIR, "", "", self.egress_nodes, able, why)
        self.wishes = {wish.id: wish for wish in (*wishes, chair)}

    # Messages out

    def _finish(self, now: int) -> list[Effect]:
        # A request may be answered by the own vote alone, and its outcome is to be told at once.
        for _ in range(3):
            if self._dirty:
                self._consider(now)
            if not self._beat_due:
                break
            self._beat_due = False
            if self.is_egress:
                self._beat(now)
        out: list[Effect] = [*self._out]
        self._out = []
        memory = self._elector.memory(self._longest_ns)
        if memory is not None and memory != self._stored:
            self._stored = memory
            out.insert(0, Remember(memory))
        return out

    def _beat(self, now: int) -> None:
        request = self.owner.request(self._quorum(now), self.config.duration_ns, now)
        claims = tuple(Claim(identity, epoch) for identity, epoch in request.claims.items())
        asked = request.quorum.asked
        beat = self._status(now, request.seq, asked, claims)
        receivers = {*self.egress_nodes, *asked}
        if self._push_due or now >= self._next_report:
            self._push_due = False
            self._next_report = now + REPORT_NS
            receivers.update(self._subscribers.current(now))
        self._send(sorted(receivers), beat)
        if self._me in asked:
            answer = self._elector.vote(self._me, self.endpoint.incarnation, beat, self.config.duration_ns, now)
            self._count(self._me, answer, now)

    def _status(
        self, now: int, seq: int = 0, asked: tuple[str, ...] = (), claims: tuple[Claim, ...] = ()
    ) -> Heartbeat:
        """What this node says of itself; with ``seq`` it is a request as well."""
        self._releases = {k: (r, at) for k, (r, at) in self._releases.items() if now < at + REPEAT_NS}
        self._masteries = {i: m for i, m in self._masteries.items() if i in self.owner.held(now)}
        unready = {
            w.id: w.reason for w in self.wishes.values() if not w.ready and self._me in w.eligible and w.id != CHAIR
        }
        return Heartbeat(
            seq=seq,
            duration_ns=self.config.duration_ns,
            voters=self.electorate.current,
            accepted=self.electorate.accepted,
            asked=asked,
            claims=claims,
            releases=tuple(release for release, _ in self._releases.values()),
            isolated=self.isolated(now),
            reason="stopping" if self._stopping_at is not None else "",
            unready=unready,
            masters=tuple(self._masteries.values()),
            proposal=self._chair.proposal,
        )

    def _subscribe(self, nodes: Iterable[str]) -> None:
        body = Subscribe(self.electorate.current, self.electorate.accepted, tuple(self.followings.known()))
        self._send(nodes, body)

    def _subscription_pause(self) -> int:
        """Soon where this node still has to learn who votes; a little less than the period, by lot."""
        learning = self.electorate.recovering or self.electorate.current.version == 0
        pause = 2 * self.config.heartbeat_ns if learning else SUBSCRIBE_NS
        return pause - draw(self._me, str(self._next_subscribe)) % (pause // 4)

    def _send(self, nodes: Iterable[str], body: Heartbeat | Answer | Subscribe) -> None:
        encoded = encode(body)
        for node in nodes:
            if node in self.endpoint.peers:
                datagram = self.endpoint.seal(node, encoded)
                self._out.append(Send(self.endpoint.peers[node], datagram))
