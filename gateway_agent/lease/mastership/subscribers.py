"""The nodes that get the announcement of a new master at once, and the history of changes."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from ..ipc import Change
from ..voting.protocol import MILLISECOND, NEVER, SECOND
from ..voting.voter_set import PROPOSER_LEASE
from .masters import MasterChange

SUBSCRIPTION_NS = 10 * SECOND
"""Time for which an egress node keeps a subscription that is not renewed."""
SUBSCRIBER_TTL_NS = 2500 * MILLISECOND
"""Time after a message for which a subscriber counts as alive: each renews its subscription every two seconds."""


class Subscribers:
    """Nodes that get the announcement of every new master at once. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    PUSHES_NS = tuple(ms * MILLISECOND for ms in (20, 100, 300, 1000))
    """Times after the first push of a change at which the push is repeated: one can be lost."""

    def __init__(self) -> None:
        self._until: dict[str, int] = {}
        self._received_at: dict[str, int] = {}
        self._carries: dict[str, frozenset[str]] = {}
        """The egress IPs that the pods of each node use; only nodes that have named them."""
        self._pushes: list[int] = []

    def add(self, node: str, now: int, carries: Collection[str] | None = None) -> None:
        """Add or renew a subscription. ``carries``: the egress IPs that pods of the node use; None: not known."""
        self._until[node] = now + SUBSCRIPTION_NS
        self._carries.pop(node, None)
        if carries is not None:
            self._carries[node] = frozenset(carries)

    def forget_old(self, now: int) -> None:
        """Drop the subscriptions that have ended."""
        self._until = {node: until for node, until in self._until.items() if until > now}
        self._carries = {node: carries for node, carries in self._carries.items() if node in self._until}

    def retain(self, nodes: Collection[str]) -> None:
        """Drop all other nodes."""
        self._until = {node: until for node, until in self._until.items() if node in nodes}
        self._received_at = {node: at for node, at in self._received_at.items() if node in nodes}
        self._carries = {node: carries for node, carries in self._carries.items() if node in nodes}

    def on_message(self, node: str, now: int) -> None:
        """Note a message of ``node``."""
        self._received_at[node] = now

    def leave(self, node: str) -> None:
        """Note that ``node`` is ending: it may not answer from now on."""
        self._received_at.pop(node, None)

    def carrying(self, identity: str, now: int) -> set[str]:
        """Return the live subscribers whose pods may use an egress IP."""
        near = [
            node
            for node in self.current(now)
            if now - self._received_at.get(node, -NEVER) <= SUBSCRIBER_TTL_NS
        ]
        return {node for node in near if identity in self._carries.get(node, (identity,))}

    def push(self, now: int) -> None:
        """Schedule repetitions of the push that is sent now: a push can be lost."""
        self._pushes = sorted({*self._pushes, *(now + after for after in self.PUSHES_NS)})

    def take_due(self, now: int) -> bool:
        """Remove the repetitions of a push that are due. Return True if there were any."""
        due = bool(self._pushes) and self._pushes[0] <= now
        self._pushes = [at for at in self._pushes if at > now]
        return due

    def next_push(self) -> int:
        """Return when the next repetition of a push is due."""
        return self._pushes[0] if self._pushes else NEVER

    def current(self, now: int) -> list[str]:
        """Return the nodes whose subscriptions have not ended."""
        return [node for node, until in self._until.items() if until > now]


class History:
    """The last changes of masters."""

    def __init__(self) -> None:
        self.changes: deque[Change] = deque(maxlen=100)

    def add(self, change: MasterChange, wall_ns: int) -> None:
        """Note a change. ``wall_ns``: Unix time."""
        if change.id == PROPOSER_LEASE:
            return
        record = Change(
            change.id,
            change.before.master,
            change.after.master,
            change.after.epoch,
            wall_ns / SECOND,
            change.silent_ms,
            change.reason,
            change.planned,
        )
        self.changes.append(record)
