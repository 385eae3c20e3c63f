"""The lease keeper as a state machine: datagrams, configuration and time in, datagrams and state out.

One heartbeat is everything at once: sign of life, request for leases, announcement of what is held. A node
that is no egress node sends none; it votes where it is asked to, and subscribes to the egress nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from .ipc import Facts, KeeperConfig
from .lifecycle import Lifecycle
from .mastership.acquisition import Timers
from .mastership.candidates import ElectionInput, effective_specs
from .mastership.masters import REPORT_NS, Member, Subscribers
from .mastership.own_masters import REPEAT_NS
from .mastership.ownership import Due, Ownership
from .messages import limits
from .messages.agreement import Agreement
from .messages.builder import STOPPING, MessageBuilder
from .messages.keys import Keyring
from .messages.outbox import Outbox, Send
from .messages.rate_limiter import RateLimiter
from .messages.strays import Strays
from .messages.wire import Answer, Endpoint, Handover, Heartbeat, Holding, Opened, Subscribe, epochs_in
from .tunnels import TunnelEffect, Tunnels
from .virtual_ips import serving
from .virtual_ips.conflict_detection import ConflictDetection, Vacancy
from .virtual_ips.serving import VirtualIPs
from .voting.failure_detector import FailureDetector
from .voting.proposer import Proposer
from .voting.protocol import DURATION, NEVER
from .voting.quorum_view import NEVER_HEARD, QuorumView
from .voting.voter_node import VoterNode
from .voting.voter_set import PROPOSER_LEASE, Memory, VoterSetState

BURST = 16
"""So often a node may speak out of its turn at once; then four times for each heartbeat."""


@dataclass(frozen=True)
class Remember:
    """To be stored before anything that follows is sent."""

    memory: Memory


Effect = Send | Remember | TunnelEffect | serving.Effect


class LeaseNode:
    """Every input gives the effects to carry out, in order. ``now``: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(
        self, config: KeeperConfig, keys: Keyring, incarnation: int, memory: Memory | None, now: int
    ) -> None:
        """``incarnation``: a random number of 64 bits, not 0. ``memory``: of an earlier process, if any.

        The configuration takes effect with the first :meth:`configure`.
        """
        self.config = config
        self.failure_detector = FailureDetector()
        self.endpoint = Endpoint(config.node, incarnation, keys, {})
        self.voter_set = VoterSetState(config.node, memory, now)
        self._me = config.node
        self._due = Due()
        self._voter_node = VoterNode(self.voter_set, memory, config.duration_ns, now)
        self._quorum_view = QuorumView(config, self.voter_set, self._voter_node.silent_until, now)
        self._subscribers = Subscribers()
        self.agreement = Agreement()
        self.strays = Strays(self._quorum_view, self.endpoint)
        self._shown = 0
        self.ownership = Ownership(
            config.node, incarnation, self._voter_node, self._subscribers, _timers(config), self._due
        )
        self._proposer = Proposer(config.node)
        self._outbox = Outbox(self.endpoint)
        self._effects: list[Effect] = []
        """To be handed out. What an input that raises had decided by then is handed out with the next one, in order: a
        fence is closed, and a grant remembered, before anything that relies on it is sent."""
        self._message_builder = MessageBuilder(
            self.voter_set, self._quorum_view, self.ownership, self._proposer, self._outbox
        )
        self._tunnels = Tunnels(config.node)
        self.virtual_ips = VirtualIPs()
        self.conflicts = ConflictDetection()
        self._vacancy = Vacancy()
        self._moved: set[int] = set()
        """Tokens of the handovers that are carried out and still asked for."""
        self._configured: set[str] = set()
        """Ids that were configured since something was forgotten last."""
        self._next_forget = now + limits.FORGET_NS
        self._was_isolated = self._was_deaf = False
        self._held_back_by: tuple[str, ...] = ()
        self._was_late = False
        self._stored = memory
        self._retired_at = NEVER_HEARD
        self._lifecycle = Lifecycle(now)
        self._rate_limiter = RateLimiter(BURST, config.heartbeat_ns // 4)
        self._beats = False
        """The heartbeat has its turn."""
        self._last_input = now
        self._epochs = limits.EpochLimit()
        self._next_beat = self._next_report = self._next_subscribe = self._next_correction = now

    # Inputs

    def configure(
        self, config: KeeperConfig, keys: Keyring, now: int, wall_offset_ns: int = 0
    ) -> list[Effect]:
        """Takes on a new configuration, live. The node's name cannot change. Also a sign of life.

        ``wall_offset_ns``: what to add to ``now`` to get Unix time.
        """
        self.attend(now)
        self._expire(now)
        was_egress, carried, edited = self.is_egress, self.carried, config.facts != self.config.facts
        self.config = config
        self._rate_limiter.gap_ns = config.heartbeat_ns // 4
        self.endpoint.keys = keys
        self.ownership.wall_offset_ns = wall_offset_ns
        peers = {p.name: p.address for p in config.peers if p.name != self._me}
        # Until it is known who cares, everybody is told: a master that has just started has no subscribers yet.
        for newcomer in peers.keys() - self.endpoint.peers.keys():
            self._subscribers.add(newcomer, now)
        self._subscribers.retain(peers)
        self.endpoint.peers = peers
        self._quorum_view.configure(config)
        self._tunnels.configure(config)
        self.agreement.configure(config.facts, peers.keys(), config.egress)
        if was_egress and not self.is_egress:
            self._retired_at = now
        self.failure_detector.retain(self.egress_nodes)
        if config.stopping:
            self._lifecycle.stop(now)
        self._spec(now)
        if self.carried - carried or edited:
            # A master that hands over waits for this node from now on, and asks for no longer lease than it grants.
            self._subscribe(self.egress_nodes, now)
        self._moved &= {move.token for move in config.moves}
        for move in config.moves:
            if move.token not in self._moved:
                self._moved.add(move.token)
                self._move(Handover(move.id, move.to), now)
        # What changed, readiness above all, is told at once.
        self._due.beat = self._due.decision = True
        self._due.revision += 1
        return self._finish(now)

    def renew_tunnels(self, now: int) -> list[Effect]:
        """Set each tunnel again, whatever has become of it in the kernel."""
        self._expire(now)
        self._tunnels.renew()
        return self._finish(now)

    def tunnel_refused(self, device: str) -> None:
        """Set the tunnel again with the next input: the kernel has refused the last effect for ``device``."""
        self._tunnels.refused(device)

    def stop(self, now: int) -> list[Effect]:
        """Hand over everything, whatever the agent says from now on; :meth:`finished` tells when that is done."""
        self._expire(now)
        if not self._lifecycle.stopping:
            self._lifecycle.stop(now)
            self._spec(now)
            self._due.beat = self._due.decision = True
            self._due.revision += 1
        return self._finish(now)

    def attend(self, now: int, wall_offset_ns: int | None = None) -> None:
        """The agent has given a sign of life. ``wall_offset_ns``: as for :meth:`configure`; None: as it was."""
        self._lifecycle.agent_seen(now)
        if wall_offset_ns is not None:
            self.ownership.wall_offset_ns = wall_offset_ns

    def _wall(self, now: int) -> int:
        """Return Unix time, nanoseconds; 0 if it is not known."""
        offset = self.ownership.wall_offset_ns
        return now + offset if offset else 0

    def receive(self, datagram: bytes, source: str, now: int) -> list[Effect]:
        """``source``: the address that the datagram came from."""
        self._expire(now)
        opened = self.endpoint.open(datagram, source, now)
        if opened.reply:
            self._outbox.reply(source, opened.reply)
        if opened.body is not None:
            self._quorum_view.hear(opened.sender, now)
            self._subscribers.hear(opened.sender, now)
            if opened.met:
                self._subscribe([opened.sender], now)
                # After a restart of several voters at once an election waits for nothing else.
                self._due.beat |= opened.sender in self.voter_set.current.members and self.isolated(now)
            self._take(opened, now)
            # Who learns that an address has had a master waits for no answer.
            self._due.decision |= bool(self._vacancy.pending)
        return self._finish(now)

    def claimed(self, address: str, mac: str, interface: str, now: int) -> list[Effect]:
        """Another machine on the LAN of ``interface`` says that it has a virtual address."""
        self._expire(now)
        mastership = self.ownership
        identity = self.virtual_ips.on_conflict(address, now)
        news = self.conflicts.on_arp_claim(
            identity, address, mac, interface, now, now + mastership.wall_offset_ns
        )
        self._due.revision += news
        if identity:
            mastership.give_up(identity, f"{mac} has {address}, and no majority says that it must not", now)
        return self._finish(now)

    def wake(self, now: int) -> list[Effect]:
        """To be called at :meth:`next_wake`, or whenever convenient."""
        self._expire(now)
        if pending := self._voter_node.due(now):
            # At once: a new master waits for it. All else that is due comes with the next wake.
            for each in pending:
                self._vote(each.sender, each.incarnation, each.beat, now)
            return self._finish(now)
        self.ownership.start_handover(now)
        self.ownership.silence(now)
        self.conflicts.wake(now)
        if self._lifecycle.agent_gone(now):
            self._lifecycle.stop(now)
            self._spec(now)
        if now >= self._next_subscribe:
            self._subscribe(sorted({*self.egress_nodes, *self.voter_set.current.members}), now)
            self.endpoint.heard.keep(frozenset(self.endpoint.peers), now)
            self.agreement.tend(now)
            self._subscribers.current(now)
            self._next_subscribe = now + self._message_builder.subscription_pause(
                self.config, self._next_subscribe
            )
        if now >= self._next_forget:
            self._forget(now)
        if self._quorum_view.recover(now):
            self._voters_changed()
        late = self.ownership.lateness.is_late(now)
        self._due.revision += late != self._was_late
        self._was_late = late
        held_back_by = self.voter_set.held_back_by(now)
        self._due.revision += held_back_by != self._held_back_by
        self._held_back_by = held_back_by
        deaf = self.hears_no_peer(now)
        self._due.revision += deaf != self._was_deaf
        self._was_deaf = deaf
        if self._speaks(now) and now >= self._next_beat:
            following = self._next_beat + self.config.heartbeat_ns
            # Who was stopped does not make up for what it has missed.
            self._next_beat = following if following > now else now + self.config.heartbeat_ns
            self._due.beat = self._beats = True
        if self._subscribers.due(now):
            self._due.push = True
        self._due.decision = True
        return self._finish(now)

    def next_wake(self) -> int:
        speaks = self.is_egress or self._next_beat < self._retired_at + REPEAT_NS
        return min(
            self.ownership.next_wake(),
            self._voter_node.next_due(),
            self._next_subscribe,
            self._next_beat if speaks else NEVER,
            self._rate_limiter.next() if speaks and (self._due.beat or self._due.push) else NEVER,
            self._subscribers.next_push(),
            self.virtual_ips.next_wake(),
            self.conflicts.next_wake(),
            # Not with the next own heartbeat: a lease may be hardly longer than what makes a member suspect.
            self.failure_detector.next_suspicion(self.ownership.timers.suspect_ns)
            if self.is_egress
            else NEVER,
            self._lifecycle.next_wake(),
        )

    # What can be asked of it

    @property
    def revision(self) -> int:
        """Grows when what :func:`gateway_agent.lease.status.report` shows has changed."""
        return self._due.revision + self.strays.revision

    @property
    def egress_nodes(self) -> tuple[str, ...]:
        return self._quorum_view.egress_nodes

    @property
    def is_egress(self) -> bool:
        return self._me in self.egress_nodes

    @property
    def facts(self) -> Facts | None:
        """Return what the other nodes are told of this one's settings."""
        return self.agreement.own(self.endpoint.keys.numbers, self._wall(self._last_input))

    @property
    def carried(self) -> frozenset[str]:
        """Return the ids by which pods of this node go, as its agent said last."""
        return frozenset(wish.id for wish in self.config.egress if wish.carries)

    @property
    def occupied(self) -> Mapping[str, str]:
        """Return by egress id why an address cannot be taken: another machine has it."""
        return self._vacancy.occupied

    def isolated(self, now: int) -> bool:
        """An egress node that hears no majority of the voters."""
        return self.is_egress and self._quorum_view.isolated(now)

    def hears_no_peer(self, now: int) -> bool:
        """Return whether no other node was heard for long, though one should be."""
        return self._quorum_view.hears_no_peer(now)

    def finished(self, now: int) -> bool:
        """Stopping, and either everything has a new master or nobody takes it."""
        return self._lifecycle.over(self.ownership.handed_over(), now)

    # Messages in

    def _take(self, opened: Opened, now: int) -> None:
        sender, body = opened.sender, opened.body
        if body is not None and self._epochs.refused(
            epochs_in(body), self.ownership.master_table.all_highest(), now
        ):
            self.endpoint.counters["out_of_bounds"] += 1
            return
        if isinstance(body, Heartbeat | Answer | Subscribe) and self.voter_set.merge(
            sender, body.voters, body.accepted, now
        ):
            self._voters_changed()
        if isinstance(body, Heartbeat | Subscribe):
            self.agreement.hear(sender, body.facts, now, self._wall(now))
        if isinstance(body, Heartbeat):
            self._take_heartbeat(sender, body, now)
            if self._me in body.asked:
                self._vote(sender, opened.incarnation, body, now)
        elif isinstance(body, Answer):
            self._count(sender, body, now)
        elif isinstance(body, Subscribe):
            self._subscribers.add(sender, now, body.carries)
            for identity, epoch, master in body.known:
                self.ownership.bump_epoch(identity, epoch, master)
            beat = self._message_builder.heartbeat(self.config, self._lifecycle.stopping, now)
            self._outbox.put([sender], msgspec.structs.replace(beat, facts=self.facts))
        elif isinstance(body, Holding):
            self.ownership.is_queueing(sender, body.ids, now)
        elif isinstance(body, Handover):
            self._move(body, now)

    def _move(self, wanted: Handover, now: int) -> None:
        """Carries it out where this node is master, else asks the master, once."""
        master = self.ownership.master_table.of(wanted.id).master
        if self.ownership.holds(wanted.id, now):
            self.ownership.rebalance.move(wanted.id, wanted.to, now)
            self._due.decision = True
        elif master != self._me:
            self._outbox.put([master], wanted)

    def _take_heartbeat(self, sender: str, beat: Heartbeat, now: int) -> None:
        self._quorum_view.raise_max_lease(beat.duration_ns)
        if beat.reason == STOPPING:
            self._subscribers.leave(sender)
        for release in beat.releases:
            self.ownership.take_release(release, now)
        if sender in self.egress_nodes:
            member = Member(now, beat.isolated, beat.reason, beat.unready, beat.warming, beat.known)
            if self.failure_detector.on_heartbeat(sender, member):
                self._due.decision = True
                self._due.revision += 1
        elif not self.ownership.master_table.follows(sender):
            # A master that is to be one no longer is heard until it has handed over.
            return
        if self.ownership.master_table.outranked(sender, beat.masters) and now >= self._next_correction:
            # It learns at once what is known here, and claims an epoch above.
            self._next_correction = now + self.config.heartbeat_ns // 2
            self._subscribe([sender], now)
        for mastery in beat.masters:
            self.ownership.resolve_conflict(sender, mastery, now)
        self.ownership.follow(sender, beat.masters, now)
        held = [
            m.id for m in beat.masters if m.leaving and self.ownership.master_table.of(m.id).master == sender
        ]
        if held:
            self._outbox.put([sender], Holding(tuple(held)))

    def _vote(self, sender: str, incarnation: int, beat: Heartbeat, now: int) -> None:
        answer = self._voter_node.vote(sender, incarnation, beat, self.config.duration_ns, now)
        if sender == self._me:
            self._count(sender, answer, now)
        else:
            self._outbox.put([sender], answer)

    def _count(self, voter: str, answer: Answer, now: int) -> None:
        request = self.ownership.count(voter, answer, now)
        if request is None:
            return
        self._quorum_view.answer(voter, now)
        if self._isolation_changed(now):
            # Now it may ask for what is homeless, and be given something.
            self._due.beat = self._due.decision = True
        if any(refusal.why == DURATION for refusal in answer.refused) and now >= self._next_correction:
            # It answers with its settings: the next request asks for no more than it grants.
            self._next_correction = now + self.config.heartbeat_ns // 2
            self._subscribe([voter], now)
        if PROPOSER_LEASE in answer.granted and PROPOSER_LEASE in request.claims:
            current = self.voter_set.current
            decided = self._proposer.count(
                voter, request, answer.accepted, current, lambda: self._quorum_view.wanted_voters(now)
            )
            if decided and decided.version == current.version + 1:
                self.voter_set.adopt(decided, now)
                self._voters_changed()

    # Decisions

    def _expire(self, now: int) -> None:
        # An egress node has something to do with each heartbeat at the latest.
        pause_ns = now - self._last_input
        if pause_ns > self.config.duration_ns // 2:
            self.ownership.lateness.stall(pause_ns, self.config.duration_ns, now)
        self._last_input = now
        # Of two nodes the one that is left need not spare others.
        self.ownership.expire(pausing=len(self.endpoint.peers) > 1, now=now)

    def _spec(self, now: int) -> None:
        wishes = effective_specs(
            self.config, self.egress_nodes, self._lifecycle.stopping, self._vacancy.occupied
        )
        self.ownership.configure(wishes, _timers(self.config), self._lifecycle.stopping, now)
        self._configured |= self.ownership.specs.keys()

    def _forget(self, now: int) -> None:
        """Drop what is known of egress IPs that are gone."""
        self._next_forget = now + limits.FORGET_NS
        self.ownership.forget(self._configured, now)
        self._epochs.forget(self.ownership.master_table.all_highest().keys())
        self.conflicts.forget({wish.address for wish in self.config.egress})
        self._configured = {*self.ownership.specs}

    def _decide(self, now: int) -> None:
        surviving, pending = self._quorum_view.may_serve_without_quorum(now), self._ask_first(now)
        barred = not self._quorum_view.quorum(now).sets or (self._quorum_view.isolated(now) and not surviving)
        mastership = self.ownership
        heard = self.failure_detector.heard(mastership.timers.suspect_ns, now)
        situation = ElectionInput(
            me=self._me,
            wishes=mastership.specs,
            members=heard,
            masters=mastership.masters(heard),
            standing=self.is_egress and not barred,
            surviving=surviving,
            warming=mastership.warming(now),
            taken=self.conflicts.unavailable(self._me, mastership.not_owned(now), now)
            if surviving
            else pending,
            missed_at=self.failure_detector.last_suspected_at,
            heirs=mastership.rebalance.targets(now),
        )
        mastership.decide(situation, now)

    def _ask_first(self, now: int) -> list[str]:
        """Ask the LAN for addresses that no node is known to have had. Return the ids that wait for an answer."""
        known = self.ownership.master_table
        wanted = [w for w in self.config.egress if w.ready and w.address and not known.highest(w.id)]
        before, self._vacancy = self._vacancy, self.conflicts.vacancy(wanted, now)
        if self._vacancy.occupied != before.occupied:
            self._spec(now)
            self._due.beat = True
            self._due.revision += 1
        return self._vacancy.pending

    def _isolation_changed(self, now: int) -> bool:
        """Whether it has begun or ended since the last call."""
        before, self._was_isolated = self._was_isolated, self.isolated(now)
        self._due.revision += self._was_isolated != before
        return self._was_isolated != before

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
            if not self._may_speak(now):
                break
            if self._due.beat and self._speaks(now):
                self._beat(now)
            elif self._due.push and self._speaks(now):
                self._tell(now)
            self._due.beat = False
        self._isolation_changed(now)
        shown = self.endpoint.heard.revision + self.agreement.revision
        self._due.revision += shown != self._shown
        self._shown = shown
        mastership = self.ownership
        # Before anything is sent: a master that hears that this node holds its packets back relies on it.
        masters = mastership.master_table
        self._tunnels.follow(masters.changed, masters, now, self._effects)
        masters.changed.clear()
        # The fence first: a release must not be sent before it is closed, nor a request before its ticket lies.
        after = self.virtual_ips.reconcile(mastership.owner.held(now), mastership.specs, now, self._effects)
        self._remember()
        self._effects += self._outbox.take()
        self._effects += [*after, *self.conflicts.probes()]
        effects, self._effects = self._effects, []
        return effects

    def _subscribe(self, nodes: Iterable[str], now: int) -> None:
        # While the agent is away the plugin may lead pods by anything.
        carries = tuple(sorted(self.carried)) if self._lifecycle.attended(now) else None
        self._message_builder.subscribe(nodes, self.facts, carries)

    def _may_speak(self, now: int) -> bool:
        """Whether there is something to say, and it is time. What is urgent is said at once, but not without end: each
        word is answered by all, and with many addresses each answer may give reason for another word."""
        if not self._due.beat and not self._due.push:
            return False
        beats, self._beats = self._beats, False
        return beats or not self._speaks(now) or self._rate_limiter.take(now)

    def _remember(self) -> None:
        memory = self._voter_node.memory(self._quorum_view.longest_ns)
        if memory is not None and memory != self._stored:
            self._effects.append(Remember(memory))
            self._stored = memory

    def _speaks(self, now: int) -> bool:
        """An egress node does; one that was repeats for a while that it has let go."""
        return self.is_egress or now < self._retired_at + REPEAT_NS

    def _beat(self, now: int) -> None:
        quorum, least_ns = self._quorum_view.quorum(now), self.ownership.timers.suspect_ns
        duration_ns = self.agreement.grantable_ns(self.config.duration_ns, quorum.asked, least_ns)
        request = self.ownership.owner.request(quorum, duration_ns, now)
        self.virtual_ips.ask(request, self.ownership.specs)
        asked = request.quorum.asked
        beat = self._message_builder.heartbeat(self.config, self._lifecycle.stopping, now, request)
        peers = {*self.egress_nodes, *asked}
        if self._due.push or now >= self._next_report:
            self._report(beat, peers, now)
        self._outbox.put(sorted(peers), beat)
        if self._me in asked:
            self._vote(self._me, self.endpoint.incarnation, beat, now)

    def _tell(self, now: int) -> None:
        """Says what is new, and asks for nothing: the next request has its time."""
        beat = self._message_builder.heartbeat(self.config, self._lifecycle.stopping, now)
        self._report(beat, self.egress_nodes, now)
        self._outbox.put(self.egress_nodes, beat)

    def _report(self, beat: Heartbeat, peers: Collection[str], now: int) -> None:
        """To all who care and are not ``peers``: before those, for it is their packets that a new master waits for."""
        self._due.push = False
        self._next_report = now + REPORT_NS
        self._outbox.put(sorted(set(self._subscribers.current(now)).difference(peers)), beat)


def _timers(config: KeeperConfig) -> Timers:
    return Timers(config.heartbeat_ns, config.duration_ns)
