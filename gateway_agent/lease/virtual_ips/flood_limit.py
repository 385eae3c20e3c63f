"""Limit the frames about virtual addresses that the daemon reads in a flood. Pure. Times: nanoseconds."""

from __future__ import annotations

from ..voting.protocol import MILLISECOND, NEVER

FRAMES = 16
"""Number of frames of one socket in a period before addresses are muted. A machine requests an address once a second.
"""
PERIOD_NS = 50 * MILLISECOND


class FloodLimit:
    """Frames of one socket, counted in periods.

    Once a period has had :data:`FRAMES` frames, each address that one of these frames was about is muted until the
    period ends: the kernel drops frames about a muted address. Frames about all other addresses still arrive. Source
    addresses do not count: an attacker chooses them freely.
    """

    def __init__(self) -> None:
        self.muted: frozenset[int] = frozenset()
        """Addresses, as :func:`.arp.filtered_part` gives them."""
        self._seen: set[int] = set()
        self._frames = 0
        self._ends_at = 0

    def take(self, address: int, now: int) -> bool:
        """Count a frame about an address; return False if the address was muted already."""
        if not self.muted and now >= self._ends_at:
            self._begin(now)
        self._frames += 1
        if address in self.muted:
            return False
        self._seen.add(address)
        if self._frames >= FRAMES:
            self.muted = frozenset(self._seen)
        return True

    def next_wake(self) -> int:
        """Return when :meth:`unmute` is due."""
        return self._ends_at if self.muted else NEVER

    def unmute(self, now: int) -> frozenset[int]:
        """Begin a new period; return the addresses that were muted."""
        muted, self.muted = self.muted, frozenset()
        self._begin(now)
        return muted

    def _begin(self, now: int) -> None:
        self._seen.clear()
        self._frames = 0
        self._ends_at = now + PERIOD_NS
