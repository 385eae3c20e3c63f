"""Egress nodes by their last heartbeats."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from msgspec import field

NO_MAJORITY = "has no contact with a majority of the voters"


class Member(msgspec.Struct, frozen=True):
    """An egress node by its last heartbeat."""

    received_at: int
    isolated: bool = False
    reason: str = ""
    """The reason why the node cannot serve anything; empty if it can."""
    unready: dict[str, str] = field(default_factory=dict)
    """Reasons by egress id, for those that it could serve and is not ready for."""
    warming: Collection[str] = ()
    """Egress ids for which it has become ready only just now."""
    known: Collection[str] | None = None
    """Egress ids that it has learned of from its store; None: it has not said."""

    def ready_for(self, identity: str) -> bool:
        """Return True if it can serve an egress IP."""
        known = self.known is None or identity in self.known
        return known and not self.reason and identity not in self.unready

    def why_not(self) -> str:
        """Return the first of the reasons why it is not ready; empty if it is."""
        isolated = NO_MAJORITY if self.isolated else ""
        return self.reason or isolated or next(iter(self.unready.values()), "")
