"""Send the heartbeats of this node: when, to whom, and whether as a request.

A heartbeat is due once in each period. An urgent heartbeat is sent at once, but the rate is limited: all nodes answer
each one, and with many addresses each answer may cause another heartbeat.

Egress nodes keep step: when the heartbeat of the first node arrives, each sends its own heartbeat together with its
answer. At rest, waking up the process is most of the cost of a message.
"""

from __future__ import annotations

from collections.abc import Collection

from .mastership.masters import REPORT_NS
from .mastership.own_masters import REPEAT_NS
from .messages.bodies import Body, Heartbeat
from .messages.rate_limiter import RateLimiter
from .node_state import NodeState
from .virtual_ips.serving import VirtualIPs
from .voting.protocol import NEVER
from .voting.quorum_view import NEVER_RECEIVED

STEP_PART = 16
"""Fraction (1/16) of a period that the others wait for a late heartbeat of the first node."""
BURST = 16
"""Number of urgent heartbeats that may be sent back to back; after those, four are sent in each period."""


class Transmission:
    """The sending part of one node. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self, node: NodeState, virtual_ips: VirtualIPs, now: int) -> None:
        self._node = node
        self._virtual_ips = virtual_ips
        self._rate_limiter = RateLimiter(BURST, node.config.heartbeat_ns // 4)
        self._regular = False
        """True if the heartbeat of this period is due."""
        self._last_regular = NEVER_RECEIVED
        """The moment at which the last regular heartbeat was due."""
        self._retired_at = NEVER_RECEIVED
        self._next_heartbeat = self._next_report = now
        self.sent = 0
        """Number of heartbeats sent; one may go to many nodes."""
        self.late = 0
        """Number of heartbeats sent at least one whole period late, because this node got no processor time."""

    def configure(self) -> None:
        """Apply another length of the period."""
        self._rate_limiter.gap_ns = self._node.config.heartbeat_ns // 4

    def retire(self, now: int) -> None:
        """Note that this node is no longer an egress node."""
        self._retired_at = now

    def sends_heartbeats(self, now: int) -> bool:
        """Return True if this node sends heartbeats: an egress node, or one that repeats its last releases."""
        return self._node.is_egress or now < self._retired_at + REPEAT_NS

    def wake(self, now: int) -> None:
        """Mark the heartbeat as due if the period has ended, and repeat a push if the repetition is due."""
        if self.sends_heartbeats(now) and now >= self._next_heartbeat:
            following = self._next_heartbeat + self._node.config.heartbeat_ns
            # A process that was stopped does not send the heartbeats it has missed.
            self._begin_period(following if following > now else now + self._node.config.heartbeat_ns, now)
        if self._node.subscribers.take_due(now):
            self._node.due.push = True

    def keep_step(self, sender: str, body: Body, now: int) -> bool:
        """Handle a message. Return True if it is a request whose answer is to be sent together with the own heartbeat.

        That is so if the sender is the first live egress node by name.

        Own heartbeats are at most 9/8 of a period apart, so no peer finds this node suspect, and a first node that
        falls silent delays none.
        """
        request = isinstance(body, Heartbeat) and body.seq
        if not request or not self._node.is_egress or self._first_alive() != sender:
            return False
        period = self._node.config.heartbeat_ns
        slack, age = period // STEP_PART, now - self._last_regular
        if age >= period - period // 4:
            # A little later than the next one of the first node.
            self._begin_period(now + period + slack, now)
            return True
        self._next_heartbeat = self._last_regular + period + min(age + slack, 2 * slack)
        return False

    def _first_alive(self) -> str:
        """Return the first egress node by name among this one and the live ones."""
        me, detector = self._node.me, self._node.failure_detector
        return next(name for name in self._node.egress_nodes if name == me or detector.is_alive(name))

    def _begin_period(self, following: int, now: int) -> None:
        """Mark the heartbeat of a period as due. ``following``: the moment of the next one."""
        self.late += now >= self._next_heartbeat + self._node.config.heartbeat_ns
        self._next_heartbeat, self._last_regular = following, now
        self._node.due.heartbeat = self._regular = True

    def next_wake(self) -> int:
        """Return the moment at which this node may send next."""
        sends_heartbeats = self._node.is_egress or self._next_heartbeat < self._retired_at + REPEAT_NS
        due = self._node.due
        return min(
            self._next_heartbeat if sends_heartbeats else NEVER,
            self._rate_limiter.next() if sends_heartbeats and (due.heartbeat or due.push) else NEVER,
            self._node.subscribers.next_push(),
        )

    def take_permit(self, now: int) -> bool:
        """Use a permit of the rate limiter to send now. Return False if nothing is due, or if it is too early."""
        due = self._node.due
        if not due.heartbeat and not due.push:
            return False
        regular, self._regular = self._regular, False
        return regular or not self.sends_heartbeats(now) or self._rate_limiter.take(now)

    def send(self, now: int) -> Heartbeat | None:
        """Send the heartbeat that is due. Return the request if this node itself is to vote on it."""
        if not self.sends_heartbeats(now):
            return None
        if self._node.due.heartbeat:
            return self._request(now)
        if self._node.due.push:
            self._push(now)
        return None

    def _request(self, now: int) -> Heartbeat | None:
        node = self._node
        quorum, least_ns = node.quorum_view.quorum(now), node.ownership.timers.suspect_ns
        duration_ns = node.agreement.grantable_ns(node.config.duration_ns, quorum.asked, least_ns)
        request = node.ownership.owner.request(quorum, duration_ns, now)
        self._virtual_ips.ask(request, node.ownership.specs)
        asked = request.quorum.asked
        heartbeat = node.message_builder.heartbeat(node.config, node.lifecycle.stopping, now, request)
        peers = {*node.egress_nodes, *asked}
        if node.due.push or now >= self._next_report:
            self._report(heartbeat, peers, now)
        node.outbox.put(sorted(peers), heartbeat)
        self.sent += 1
        return heartbeat if node.me in asked else None

    def _push(self, now: int) -> None:
        """Send the news without a request: the next request waits for its period."""
        node = self._node
        heartbeat = node.message_builder.heartbeat(node.config, node.lifecycle.stopping, now)
        self._report(heartbeat, node.egress_nodes, now)
        node.outbox.put(node.egress_nodes, heartbeat)
        self.sent += 1

    def _report(self, heartbeat: Heartbeat, peers: Collection[str], now: int) -> None:
        """Send to the subscribers that are not in ``peers``. These come first: their packets wait for a new master."""
        self._node.due.push = False
        self._next_report = now + REPORT_NS
        self._node.outbox.put(sorted(set(self._node.subscribers.current(now)).difference(peers)), heartbeat)
