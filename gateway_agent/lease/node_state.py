"""The knowledge of one lease node: its parts, its configuration, and the work that one input leaves to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .egress_ips.due import Due
from .ipc import Facts, KeeperConfig
from .lifecycle import Lifecycle
from .mastership.acquisition import Timers
from .mastership.ownership import Ownership
from .mastership.subscribers import Subscribers
from .message_builder import MessageBuilder
from .messages.agreement import Agreement
from .messages.keys import Keyring
from .messages.outbox import Outbox
from .messages.wire import Endpoint
from .voting.failure_detector import FailureDetector
from .voting.proposer import Proposer
from .voting.quorum_view import QuorumView
from .voting.voter_node import VoterNode
from .voting.voter_set import Memory, VoterSetState


@dataclass(frozen=True)
class Remember:
    """Store ``memory`` before any of the following messages is sent."""

    memory: Memory


class NodeState:
    """The parts of one node, created once. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(
        self, config: KeeperConfig, keys: Keyring, incarnation: int, memory: Memory | None, now: int
    ) -> None:
        """See :class:`gateway_agent.lease.node.LeaseNode`."""
        self.config = config
        self.me = config.node
        self.due = Due()
        self.last_input = now
        self.endpoint = Endpoint(config.node, incarnation, keys, {})
        self.outbox = Outbox(self.endpoint)
        self.voter_set = VoterSetState(config.node, memory, now)
        self.voter_node = VoterNode(self.voter_set, memory, config.duration_ns, now)
        self.proposer = Proposer(config.node)
        self.failure_detector = FailureDetector()
        self.quorum_view = QuorumView(config.electorate, self.voter_set, self.voter_node.silent_until, now)
        self.subscribers = Subscribers()
        self.agreement = Agreement()
        self.lifecycle = Lifecycle(now)
        self.ownership = Ownership(
            config.node, incarnation, self.voter_node, self.subscribers, self.timers, self.due
        )
        self.message_builder = MessageBuilder(
            self.voter_set, self.quorum_view, self.ownership, self.proposer, self.outbox
        )
        self._stored = memory
        self._was_isolated = False

    def configure(self, config: KeeperConfig, keys: Keyring, now: int) -> None:
        """Apply another configuration."""
        self.config = config
        self.endpoint.keys = keys
        peers = {p.name: p.address for p in config.peers if p.name != self.me}
        # A master that has just started has no subscribers yet: until subscriptions have come, it announces to all.
        for newcomer in peers.keys() - self.endpoint.peers.keys():
            self.subscribers.add(newcomer, now)
        self.subscribers.retain(peers)
        self.endpoint.peers = peers
        self.quorum_view.configure(config.electorate)
        self.agreement.configure(config.facts, peers.keys(), config.egress)
        self.failure_detector.retain(self.egress_nodes)
        if config.stopping:
            self.lifecycle.stop(now)

    @property
    def timers(self) -> Timers:
        """Return the lengths of heartbeats and leases."""
        return Timers(self.config.heartbeat_ns, self.config.duration_ns)

    @property
    def egress_nodes(self) -> tuple[str, ...]:
        """Return the names of the egress nodes, sorted."""
        return self.quorum_view.egress_nodes

    @property
    def is_egress(self) -> bool:
        """Return True if this node is an egress node."""
        return self.me in self.quorum_view.egress_nodes

    @property
    def facts(self) -> Facts | None:
        """Return this node's settings in the form that is sent to other nodes."""
        return self.agreement.own(self.endpoint.keys.numbers, self.wall(self.last_input))

    @property
    def carried(self) -> frozenset[str]:
        """Return the ids of the egress IPs that pods of this node use, as the agent last said."""
        return frozenset(spec.id for spec in self.config.egress if spec.carries)

    def wall(self, now: int) -> int:
        """Return Unix time, nanoseconds; 0 if it is not known."""
        offset = self.ownership.wall_offset_ns
        return now + offset if offset else 0

    def isolated(self, now: int) -> bool:
        """Return True if this is an egress node that has no contact with a majority of the voters."""
        return self.is_egress and self.quorum_view.isolated(now)

    def watch_isolation(self, now: int) -> bool:
        """Update whether this node is isolated. Return True if that has changed."""
        before, self._was_isolated = self._was_isolated, self.isolated(now)
        self.due.revision += self._was_isolated != before
        return self._was_isolated != before

    def voters_changed(self) -> None:
        """Note that the voter set has changed."""
        self.due.heartbeat |= self.is_egress
        self.due.decision = True
        self.due.revision += 1

    def subscribe(self, nodes: Iterable[str], now: int) -> None:
        """Subscribe to ``nodes``, which then report their masters to this node."""
        # While the agent does not run, the plugin may steer pods to any egress IP.
        carries = tuple(sorted(self.carried)) if self.lifecycle.attended(now) else None
        self.message_builder.subscribe(nodes, self.facts, carries)

    def remember(self, effects: list[Any]) -> None:
        """Append the effect that stores this node's memory as a voter, if the memory has changed."""
        memory = self.voter_node.memory(self.quorum_view.longest_ns)
        if memory is not None and memory != self._stored:
            effects.append(Remember(memory))
            # Only now: an error on the way here must not lose it.
            self._stored = memory
