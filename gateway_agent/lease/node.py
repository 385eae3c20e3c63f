"""The lease daemon as a state machine: datagrams, configuration and time in, effects out.

One heartbeat is a sign of life, a request for leases and an announcement of the leases that are held. A node that is no
egress node sends no heartbeats; it votes on request, and subscribes to the egress nodes.

Each input goes the same path: leases that have ended are given up, the input changes the node (:mod:`.reception` for
messages), decisions that are due are made (:mod:`.election`) and sent (:mod:`.transmission`), and the consequences for
the kernel are returned as effects, in the order in which they must be carried out.
"""

from __future__ import annotations

from collections.abc import Mapping

from .effects import Effect, Effects
from .election import Election
from .ipc import Heartbeats, KeeperConfig
from .messages.bodies import Handover
from .messages.keys import Keyring
from .messages.strays import Strays
from .node_state import NodeState
from .reception import Reception
from .transmission import Transmission
from .tunnels import Tunnels
from .virtual_ips.conflict_detection import ConflictDetection
from .virtual_ips.serving import VirtualIPs
from .voting.protocol import NEVER
from .voting.voter_set import Memory


class LeaseNode:
    """The state machine of one node: each input returns effects, in order. ``now``: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(
        self, config: KeeperConfig, keys: Keyring, incarnation: int, memory: Memory | None, now: int
    ) -> None:
        """``incarnation``: a random number of 64 bits, not 0. ``memory``: what an earlier process has stored, if any.

        The configuration takes effect with the first :meth:`configure`.
        """
        state = self._state = NodeState(config, keys, incarnation, memory, now)
        self._due = state.due
        self.endpoint = state.endpoint
        self.voter_set = state.voter_set
        self.failure_detector = state.failure_detector
        self.agreement = state.agreement
        self.ownership = state.ownership
        self.strays = Strays(state.quorum_view, state.endpoint)
        self.virtual_ips = VirtualIPs()
        self.conflicts = ConflictDetection()
        self._tunnels = Tunnels(config.node)
        self._reception = Reception(state, now)
        self._transmission = Transmission(state, self.virtual_ips, now)
        self._election = Election(state, self.conflicts)
        self._effects = Effects(state, self._tunnels, self.virtual_ips, self.conflicts)
        self._moved: set[int] = set()
        """Tokens of the requested handovers that are carried out already."""
        self._seen: object = (False, (), False)
        """The last values of the parts of the state that change with time alone."""
        self._shown = 0
        self._in_step = False  # True if a message has begun a period: the work of each period is due now.
        self._next_subscribe = now

    # Inputs

    def configure(
        self, config: KeeperConfig, keys: Keyring, now: int, wall_offset_ns: int = 0
    ) -> list[Effect]:
        """Apply a new configuration, with the same name of the node; also note a sign of life.

        ``wall_offset_ns``: the difference of Unix time to ``now``.
        """
        self.attend(now, wall_offset_ns)
        self._expire(now)
        state = self._state
        was_egress, carried, edited = state.is_egress, state.carried, config.facts != state.config.facts
        state.configure(config, keys, now)
        self._tunnels.configure(config)
        self._transmission.configure()
        if was_egress and not state.is_egress:
            self._transmission.retire(now)
        self._election.configure(now)
        if state.carried - carried or edited:
            # From now on masters that hand over wait for this node, and request no longer lease than it grants.
            state.subscribe(state.egress_nodes, now)
        self._moved &= {move.token for move in config.moves}
        for move in config.moves:
            if move.token not in self._moved:
                self._moved.add(move.token)
                self._reception.move(Handover(move.id, move.to), now)
        self._announce()
        return self._finish(now)

    def _announce(self) -> None:
        """Send changes at once: above all, readiness."""
        self._due.heartbeat = self._due.decision = True
        self._due.revision += 1

    def renew_tunnels(self, now: int) -> list[Effect]:
        """Set each tunnel again, in whatever state it is in the kernel."""
        self._expire(now)
        self._tunnels.renew()
        return self._finish(now)

    def tunnel_refused(self, device: str) -> None:
        """Set the tunnel again with the next input: the kernel has refused the last effect for ``device``."""
        self._tunnels.refused(device)

    def stop(self, now: int) -> list[Effect]:
        """Hand over every lease until :meth:`finished`, whatever the agent says from now on."""
        self._expire(now)
        if not self._state.lifecycle.stopping:
            self._state.lifecycle.stop(now)
            self._election.configure(now)
            self._announce()
        return self._finish(now)

    def attend(self, now: int, wall_offset_ns: int | None = None) -> None:
        """Note a sign of life of the agent. ``wall_offset_ns``: as for :meth:`configure`; None: unchanged."""
        self._state.lifecycle.agent_seen(now)
        if wall_offset_ns is not None:
            self.ownership.wall_offset_ns = wall_offset_ns

    def receive(self, datagram: bytes, source: str, now: int) -> list[Effect]:
        """Handle a datagram. ``source``: the source address of the datagram."""
        self.take(datagram, source, now)
        return self.settle(now)

    def take(self, datagram: bytes, source: str, now: int) -> None:
        """Handle one of several datagrams that arrived together: :meth:`settle` decides on all of them.

        A decision costs as much as many messages. A decision for each message would delay a busy node, and a late node
        makes all others send more.
        """
        self._expire(now)
        state, opened = self._state, self.endpoint.open(datagram, source, now)
        if opened.reply:
            state.outbox.reply(source, opened.reply)
        if opened.body is not None:
            state.quorum_view.on_message(opened.sender, now)
            state.subscribers.on_message(opened.sender, now)
            if opened.new_incarnation:
                state.subscribe([opened.sender], now)
                # After a simultaneous restart of several voters, an election waits for this alone.
                self._due.heartbeat |= opened.sender in self.voter_set.current.members and self.isolated(now)
            self._reception.take(opened, now)
            self._in_step |= self._transmission.keep_step(opened.sender, opened.body, now)
            # Once a node learns that an address has had a master, it need not wait for an answer from the LAN.
            self._due.decision |= self._election.waits

    def settle(self, now: int) -> list[Effect]:
        """Decide on all inputs since the last decision."""
        return self.wake(now) if self._in_step else self._finish(now)

    def claimed(self, address: str, mac: str, interface: str, now: int) -> list[Effect]:
        """Handle the claim of another machine on the LAN of ``interface`` to a virtual address."""
        self._expire(now)
        identity = self.virtual_ips.on_conflict(address, now)
        wall_ns = now + self.ownership.wall_offset_ns
        self._due.revision += self.conflicts.on_arp_claim(identity, address, mac, interface, now, wall_ns)
        if identity:
            reason = f"{mac} has {address}, and no majority says that it must not"
            self.ownership.give_up(identity, reason, now)
        return self._finish(now)

    def wake(self, now: int) -> list[Effect]:
        """Do the work that is due at :meth:`next_wake`. Any earlier or later call is valid."""
        self._expire(now)
        state, self._in_step = self._state, False
        if deferred := state.voter_node.due(now):
            # The vote is sent at once: a new master waits for it. All other work comes with the next wake.
            for each in deferred:
                self._reception.vote(each.sender, each.incarnation, each.request, now)
            return self._finish(now)
        self.ownership.start_handover(now)
        self.ownership.silence(now)
        self.conflicts.wake(now)
        if state.lifecycle.agent_gone(now):
            state.lifecycle.stop(now)
            self._election.configure(now)
        if now >= self._next_subscribe:
            self._renew_subscriptions(now)
        if state.quorum_view.recover(now):
            state.voters_changed()
        self._note_changes(now)
        self._transmission.wake(now)
        self._due.decision = True
        return self._finish(now)

    def _renew_subscriptions(self, now: int) -> None:
        """Renew the subscriptions, and forget old state, once in each period of subscriptions."""
        state = self._state
        state.subscribe(sorted({*state.egress_nodes, *self.voter_set.current.members}), now)
        self.endpoint.peer_keys.keep(frozenset(self.endpoint.peers), now)
        self.agreement.start_period(now)
        state.subscribers.forget_old(now)
        self.ownership.forget_old(now)
        self._reception.forget_old()
        self._next_subscribe = now + state.message_builder.subscription_pause(
            state.config, self._next_subscribe
        )

    def _note_changes(self, now: int) -> None:
        """Raise the revision if a part of the status has changed with time alone."""
        late = self.ownership.lateness.is_late(now)
        seen = late, self.voter_set.missing_recorded_voters(now), self.receives_from_no_peer(now)
        self._due.revision += self._seen != seen
        self._seen = seen

    def next_wake(self) -> int:
        """Return when :meth:`wake` is to be called at the latest."""
        suspicion = self.failure_detector.next_suspicion(self.ownership.timers.suspect_ns)
        return min(
            self.ownership.next_wake(),
            self._state.voter_node.next_due(),
            self._next_subscribe,
            self._transmission.next_wake(),
            self.virtual_ips.next_wake(),
            self.conflicts.next_wake(),
            # Not with the next own heartbeat: a lease may be hardly longer than the time that makes a member suspect.
            suspicion if self.is_egress else NEVER,
            self._state.lifecycle.next_wake(),
        )

    # Queries

    @property
    def config(self) -> KeeperConfig:
        """Return the configuration."""
        return self._state.config

    @property
    def heartbeats(self) -> Heartbeats:
        """Return how many heartbeats this node has sent, and how many of them late."""
        return Heartbeats(self._transmission.sent, self._transmission.late)

    @property
    def revision(self) -> int:
        """Return a number that grows whenever the result of :func:`gateway_agent.lease.status.report` changes."""
        return self._due.revision + self.strays.revision

    @property
    def egress_nodes(self) -> tuple[str, ...]:
        """Return the names of the egress nodes, sorted."""
        return self._state.egress_nodes

    @property
    def is_egress(self) -> bool:
        """Return True if this node is an egress node."""
        return self._state.is_egress

    @property
    def occupied(self) -> Mapping[str, str]:
        """Return by egress id why an address cannot be taken: another machine has it."""
        return self._election.occupied

    def isolated(self, now: int) -> bool:
        """Return True if this is an egress node that has no contact with a majority of the voters."""
        return self._state.isolated(now)

    def receives_from_no_peer(self, now: int) -> bool:
        """Return True if no message has come from any other node for long, though messages are expected."""
        return self._state.quorum_view.receives_from_no_peer(now)

    def finished(self, now: int) -> bool:
        """Return True if this node stops, and each egress IP has a new master or no node takes it over."""
        lifecycle = self._state.lifecycle
        return lifecycle.stopping and lifecycle.over(self.ownership.handed_over(), now)

    # What follows from each input

    def _expire(self, now: int) -> None:
        """Give up the leases that have ended, before anything else."""
        state = self._state
        # An egress node has work at least once in each heartbeat period.
        pause_ns = now - state.last_input
        if self.is_egress and pause_ns > state.config.duration_ns // 2:
            self.ownership.lateness.stall(pause_ns, state.config.duration_ns, now)
        state.last_input = now
        # The remaining one of two nodes need not give others precedence.
        self.ownership.expire(pausing=len(self.endpoint.peers) > 1, now=now)

    def _finish(self, now: int) -> list[Effect]:
        """Make the decisions and send the messages that are due; return the effects."""
        state = self._state
        # The node's own vote alone may answer a request, and the outcome is sent at once.
        for _ in range(3):
            if self._due.decision:
                self._due.decision = False
                self._election.decide(now)
            if not self._transmission.take_permit(now):
                break
            if request := self._transmission.send(now):
                self._reception.vote(state.me, self.endpoint.incarnation, request.vote_request, now)
            self._due.heartbeat = False
        state.watch_isolation(now)
        shown = self.endpoint.peer_keys.revision + self.agreement.revision
        self._due.revision += shown != self._shown
        self._shown = shown
        return self._effects.collect(now)
