"""Limit the rate of events: a burst, then evenly spaced events."""

from __future__ import annotations


class RateLimiter:
    """The generic cell rate algorithm (ITU-T I.371, annex A). Times: nanoseconds."""

    def __init__(self, burst: int, gap_ns: int) -> None:
        """``burst``: number of events that are permitted at once after a rest; ``gap_ns``: time between later ones."""
        self.gap_ns = gap_ns
        self._burst = burst
        self._due = 0
        """The moment of the next event if all events kept the rate."""

    def next(self) -> int:
        """Return the moment of the next permitted event."""
        return self._due - (self._burst - 1) * self.gap_ns

    def take(self, now: int) -> bool:
        """Use a permit for one event now. Return False if it is too early."""
        if now < self.next():
            return False
        self._due = max(self._due, now) + self.gap_ns
        return True
