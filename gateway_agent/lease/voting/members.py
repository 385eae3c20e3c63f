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
    """The reason why the node can serve no egress IP; empty if it can serve some."""
    unready: dict[str, str] = field(default_factory=dict)
    """Reasons, by egress id, why the node is not ready for egress IPs that it is eligible for."""
    warming: Collection[str] = ()
    """Egress ids for which the node has only just become ready."""
    known: Collection[str] | None = None
    """Egress ids that the node's store contains; None: the node has not said."""

    def ready_for(self, identity: str) -> bool:
        """Return True if the node can serve an egress IP."""
        known = self.known is None or identity in self.known
        return known and not self.reason and identity not in self.unready

    def why_not(self) -> str:
        """Return the first reason why the node is not ready; empty if it is."""
        isolated = NO_MAJORITY if self.isolated else ""
        return self.reason or isolated or next(iter(self.unready.values()), "")
