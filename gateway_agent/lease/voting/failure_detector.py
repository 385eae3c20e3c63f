"""Detect failures of the other egress nodes by their messages: which are alive, and which are suspect."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec.structs import replace

from ..voting.members import Member
from .protocol import NEVER


class FailureDetector:
    """The detector of one node. Times: ``CLOCK_BOOTTIME``, nanoseconds."""

    def __init__(self) -> None:
        self._by_name: dict[str, Member] = {}
        self._missed_at: dict[str, int] = {}
        self._alive: frozenset[str] = frozenset()

    def get(self, name: str) -> Member | None:
        """Return the member as of its last heartbeat; None if there was none."""
        return self._by_name.get(name)

    def on_heartbeat(self, name: str, member: Member) -> bool:
        """Note a heartbeat. Return True if its content is new."""
        before = self._by_name.get(name)
        self._by_name[name] = member
        return before is None or replace(before, received_at=member.received_at) != member

    def repeat(self, name: str, now: int) -> bool:
        """Take in a heartbeat that says what the last one said. Return False if there was none."""
        before = self._by_name.get(name)
        if before is not None:
            self._by_name[name] = replace(before, received_at=now)
        return before is not None

    def retain(self, names: Collection[str]) -> None:
        """Forget all nodes except ``names``."""
        self._by_name = {name: member for name, member in self._by_name.items() if name in names}
        self._missed_at = {name: at for name, at in self._missed_at.items() if name in names}
        self._alive &= self._by_name.keys()

    def update(self, suspect_ns: int, now: int) -> None:
        """Note which nodes are suspect now, that is, sent no message within ``suspect_ns``."""
        alive = self.alive(suspect_ns, now)
        self._missed_at.update(dict.fromkeys(self._by_name.keys() - alive.keys(), now))
        self._alive = frozenset(alive)

    def alive(self, suspect_ns: int, now: int) -> dict[str, Member]:
        """Return the nodes that are not suspect."""
        return {
            name: member for name, member in self._by_name.items() if now - member.received_at <= suspect_ns
        }

    def is_alive(self, name: str) -> bool:
        """Return True if a node was not suspect at the last :meth:`update`."""
        return name in self._alive

    @property
    def last_suspected_at(self) -> Mapping[str, int]:
        """Return the moment at which each node was last found suspect, by name."""
        return self._missed_at

    def next_suspicion(self, suspect_ns: int) -> int:
        """Return the moment at which the next of the nodes that were alive at the last update becomes suspect."""
        received_at = (member.received_at for name, member in self._by_name.items() if name in self._alive)
        return min(received_at, default=NEVER) + suspect_ns + 1
