"""What a node hears of the egress nodes: who lives, who is ready, who is master of what."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from ..ipc import Change
from ..messages.limits import MAX_IDS, Epoch, Identity, Milliseconds, Name, Seconds, Text
from ..voting.protocol import MILLISECOND, NEVER, SECOND
from ..voting.voter_set import PROPOSER_LEASE

NO_MAJORITY = "hears no majority of the voters"
SUBSCRIPTION_NS = 10 * SECOND
"""How long an egress node keeps a subscriber that does not renew."""
SUBSCRIBER_TTL_NS = 2500 * MILLISECOND
"""A subscriber that was heard within this is there: each subscribes anew every two seconds."""
HOLD_NS = 1500 * MILLISECOND
"""How long packets wait at most for the next master while one hands over: longer than that one waits for workers."""
QUEUE_TIMED_OUT = 1
"""In the place of a time: it has been long enough, and does not begin anew."""
REPORT_NS = 500 * MILLISECOND
"""How often each subscriber hears from an egress node where nothing changes."""


class MasterAnnouncement(msgspec.Struct, frozen=True, array_like=True):
    """A master's own word on one egress IP that it holds."""

    id: Identity
    epoch: Epoch
    since: Seconds
    """Wall clock, seconds."""
    survivor: bool
    reason: Text
    """Why it took over."""
    silent_ms: Milliseconds
    """How long there had been no sign of the master before."""
    shown: Name = ""
    """The address that the outside sees."""
    leaving: bool = False
    """It hands over: packets are to be held back until the next master speaks."""
    planned: bool = False
    """The master before has handed over to a node of its choice."""


@dataclass(frozen=True)
class Member:
    """An egress node by its last heartbeat."""

    heard_at: int
    isolated: bool = False
    reason: str = ""
    """Why it cannot serve anything; empty where it can."""
    unready: dict[str, str] = field(default_factory=dict)
    """Reasons by egress id, for those that it could serve and is not ready for."""
    warming: tuple[str, ...] = ()
    """Egress ids for which it has become ready only just now."""
    known: tuple[str, ...] | None = None
    """Egress ids that it has learned of from its store; None: it has not said."""

    def ready_for(self, identity: str) -> bool:
        known = self.known is None or identity in self.known
        return known and not self.reason and identity not in self.unready

    def why_not(self) -> str:
        """The first of the reasons why it is not ready; empty where it is."""
        isolated = NO_MAJORITY if self.isolated else ""
        return self.reason or isolated or next(iter(self.unready.values()), "")


@dataclass(frozen=True)
class MasterEntry:
    """The master of one egress IP, as this node knows it."""

    master: str = ""
    """Empty: none known."""
    epoch: int = 0
    since: float = 0.0
    heard_at: int = 0
    survivor: bool = False
    gone: str | None = None
    """Why the master has said that it is master no more; None where it has not."""
    lost: str = ""
    """Why there is no master any more."""
    shown: str = ""
    """The address that the outside sees."""
    leaving_at: int = 0
    """When this node heard that the master hands over; 0: it does not."""
    gone_at: int = 0
    """When this node learned that the master is one no more; 0: it is."""
    planned: bool = False
    """It has handed over to a node of its choice."""

    def silent_ns(self, suspect_ns: int, now: int) -> int:
        """Return for how long nothing has left by the egress IP, where it has a new master now.

        That is from the moment at which the master let go, or, where it had been unheard for ``suspect_ns`` by then,
        from its last sign: it may have been cut off since. So it is an upper bound. A planned handover is no silence
        for as long as the workers hold their packets.
        """
        if not self.epoch:
            return 0
        if self.planned and now - self.gone_at < HOLD_NS:
            return 0
        known_to_the_end = self.gone_at and self.gone_at - self.heard_at <= suspect_ns
        return now - (self.gone_at if known_to_the_end else self.heard_at)

    def is_queueing(self, now: int) -> bool:
        """Whether packets for it are to wait for the next master. Not for ever: the handover may have failed."""
        return bool(self.master and self.leaving_at) and now < self.leaving_at + HOLD_NS


_NOBODY = MasterEntry()


@dataclass(frozen=True)
class MasterChange:
    """The egress IP has another master, or has lost its last."""

    id: str
    before: MasterEntry
    after: MasterEntry
    reason: str
    silent_ms: int
    planned: bool = False


class MasterTable:
    """Who is master of what: the highest epoch is right, always."""

    def __init__(self) -> None:
        self._by_id: dict[str, MasterEntry] = {}
        self._highest: dict[str, int] = {}
        self.changed: set[str] = set()
        """Ids with another master, or whose master has begun or ended to hand over. Emptied by the reader."""
        self._named: set[str] = set()
        """Ids of which an epoch was received since :meth:`forget` was called last."""

    def _set(self, identity: str, entry: MasterEntry) -> None:
        before = self.of(identity)
        if (before.master, before.leaving_at) != (entry.master, entry.leaving_at):
            self.changed.add(identity)
        self._by_id[identity] = entry

    def of(self, identity: str) -> MasterEntry:
        return self._by_id.get(identity, _NOBODY)

    def highest(self, identity: str) -> int:
        """The highest epoch that this node has heard of."""
        return self._highest.get(identity, 0)

    def all_highest(self) -> Mapping[str, int]:
        """Return :meth:`highest` of every id that this node has received an epoch of."""
        return self._highest

    def note(self, identity: str, epoch: int) -> None:
        if identity in self._highest or len(self._highest) < MAX_IDS:
            self._highest[identity] = max(epoch, self.highest(identity))
            self._named.add(identity)

    def forget(self, configured: Collection[str]) -> None:
        """Drop the egress IPs that are not ``configured``, have no master, and were not named since the last call.

        No old epoch comes back by that: a recorded message is never fresh again, and a node that remembers a higher
        epoch names it as soon as it hears a lower one. Then the higher one is right, as ever.
        """
        led = (identity for identity, entry in self._by_id.items() if entry.master)
        keep = {*configured, *self._named, *led}
        self._by_id = {identity: entry for identity, entry in self._by_id.items() if identity in keep}
        self._highest = {identity: epoch for identity, epoch in self._highest.items() if identity in keep}
        self._named.clear()

    def follows(self, node: str) -> bool:
        """Whether it is master of anything, as far as this node knows."""
        return any(following.master == node for following in self._by_id.values())

    def known(self) -> list[tuple[str, int, str]]:
        """Id, epoch and master of each, for a subscription."""
        return [(i, following.epoch, following.master) for i, following in self._by_id.items()]

    def outranked(self, node: str, masteries: Iterable[MasterAnnouncement]) -> bool:
        """Whether ``node`` does not know of an epoch that another master had, as high as its own or higher."""
        known = [(mastery.epoch, self.of(mastery.id)) for mastery in masteries]
        return any(
            epoch < following.epoch or (epoch == following.epoch and following.master not in ("", node))
            for epoch, following in known
        )

    def on_announcement(
        self, node: str, masteries: Iterable[MasterAnnouncement], hold_ns: int, now: int
    ) -> list[MasterChange]:
        """Takes in all that ``node`` is master of. ``hold_ns``: how long a silent master stays the master."""
        turns = []
        named = set()
        for mastery in masteries:
            named.add(mastery.id)
            before = self.of(mastery.id)
            same = before.master == node
            stale = before.master == "" or now - before.heard_at > hold_ns or before.gone is not None
            if mastery.epoch < before.epoch or (mastery.epoch == before.epoch and not same and not stale):
                continue
            if mastery.id not in self._by_id and len(self._by_id) >= MAX_IDS:
                continue
            self.note(mastery.id, mastery.epoch)
            leaving_at = (before.leaving_at if same else 0) or now if mastery.leaving else 0
            after = MasterEntry(
                node,
                mastery.epoch,
                mastery.since,
                now,
                mastery.survivor,
                shown=mastery.shown,
                leaving_at=leaving_at,
            )
            self._set(mastery.id, after)
            # The same node again, after its lease had ended: nobody else was there to take over.
            if not same or (before.gone is not None and mastery.epoch > before.epoch):
                turns.append(
                    MasterChange(
                        mastery.id, before, after, mastery.reason, mastery.silent_ms, mastery.planned
                    )
                )
        for identity, following in self._by_id.items():
            if following.master == node and identity not in named and following.gone is None:
                self._by_id[identity] = replace(following, gone=f"given up by {node}", gone_at=now)
        return turns

    def release(self, identity: str, node: str, epoch: int, reason: str, planned: bool, now: int) -> bool:
        """Take in that the master lets go, by handover if it is ``planned``. Return whether that is news.

        It stays the one followed until another one shows up. ``now``: since when it has not served.
        """
        following = self.of(identity)
        if following.master != node or epoch < following.epoch:
            return False
        news = following.gone is None or following.gone.startswith("given up")
        self._by_id[identity] = replace(
            following, gone=f"released by {node}: {reason}", gone_at=following.gone_at or now, planned=planned
        )
        return news

    def silence(self, hold_ns: int, now: int) -> list[MasterChange]:
        """Gives up the masters that nobody has heard for ``hold_ns``."""
        turns = []
        for identity, before in self._by_id.items():
            if before.master and now - before.heard_at >= hold_ns:
                silent_ms = (now - before.heard_at) // MILLISECOND
                reason = before.gone or f"{before.master} unheard for {silent_ms} ms"
                after = MasterEntry(epoch=before.epoch, heard_at=before.heard_at, lost=reason)
                self._set(identity, after)
                turns.append(MasterChange(identity, before, after, reason, silent_ms))
        return turns

    def next_unheld(self) -> int:
        """When the next hold ends by itself."""
        return min(
            (f.leaving_at + HOLD_NS for f in self._by_id.values() if f.leaving_at > QUEUE_TIMED_OUT),
            default=NEVER,
        )

    def end_holds(self, now: int) -> None:
        """Lets the packets go that have waited long enough."""
        for identity, following in self._by_id.items():
            if following.leaving_at and not following.is_queueing(now):
                self._set(identity, replace(following, leaving_at=QUEUE_TIMED_OUT))

    def next_silence(self, hold_ns: int) -> int:
        return min((f.heard_at + hold_ns for f in self._by_id.values() if f.master), default=NEVER)


class Subscribers:
    """Nodes that want to hear of every new master at once."""

    PUSHES_NS = tuple(ms * MILLISECOND for ms in (20, 100, 300, 1000))
    """When a change is told again, after the first time: a push can be lost."""

    def __init__(self) -> None:
        self._until: dict[str, int] = {}
        self._heard: dict[str, int] = {}
        self._carries: dict[str, frozenset[str]] = {}
        """By which egress IPs the pods of each node go that has said so."""
        self._pushes: list[int] = []

    def add(self, node: str, now: int, carries: Collection[str] | None = None) -> None:
        """``carries``: the egress IPs by which its pods go; None: not known."""
        self._until[node] = now + SUBSCRIPTION_NS
        self._carries.pop(node, None)
        if carries is not None:
            self._carries[node] = frozenset(carries)

    def retain(self, nodes: Collection[str]) -> None:
        """Drop all other nodes."""
        self._until = {node: until for node, until in self._until.items() if node in nodes}
        self._heard = {node: at for node, at in self._heard.items() if node in nodes}
        self._carries = {node: carries for node, carries in self._carries.items() if node in nodes}

    def hear(self, node: str, now: int) -> None:
        """Take in that ``node`` has sent something."""
        self._heard[node] = now

    def leave(self, node: str) -> None:
        """Take in that ``node`` is ending: it may answer nothing from now on."""
        self._heard.pop(node, None)

    def carrying(self, identity: str, now: int) -> set[str]:
        """Return the subscribers whose pods may go by an egress IP, and that were heard a moment ago."""
        near = [
            node for node in self.current(now) if now - self._heard.get(node, -NEVER) <= SUBSCRIBER_TTL_NS
        ]
        return {node for node in near if identity in self._carries.get(node, (identity,))}

    def push(self, now: int) -> None:
        self._pushes = sorted({*self._pushes, *(now + after for after in self.PUSHES_NS)})

    def due(self, now: int) -> bool:
        """Whether a repetition of a push is due; it counts as done then."""
        due = bool(self._pushes) and self._pushes[0] <= now
        self._pushes = [at for at in self._pushes if at > now]
        return due

    def next_push(self) -> int:
        return self._pushes[0] if self._pushes else NEVER

    def current(self, now: int) -> list[str]:
        self._until = {node: until for node, until in self._until.items() if until > now}
        self._carries = {node: carries for node, carries in self._carries.items() if node in self._until}
        return list(self._until)


class History:
    """The last changes of masters."""

    def __init__(self) -> None:
        self.changes: deque[Change] = deque(maxlen=100)

    def turn(self, turn: MasterChange, wall_ns: int) -> None:
        if turn.id == PROPOSER_LEASE:
            return
        change = Change(
            turn.id,
            turn.before.master,
            turn.after.master,
            turn.after.epoch,
            wall_ns / SECOND,
            turn.silent_ms,
            turn.reason,
            turn.planned,
        )
        self.changes.append(change)
