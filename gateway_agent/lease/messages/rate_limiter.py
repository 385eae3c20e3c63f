"""Limit a rate: some events at once, then a steady number for each second."""

from __future__ import annotations


class RateLimiter:
    """The generic cell rate algorithm (ITU-T I.371, annex A). Times: nanoseconds."""

    def __init__(self, burst: int, gap_ns: int) -> None:
        """``burst``: so many at once after a rest; ``gap_ns``: from one to the next after those."""
        self.gap_ns = gap_ns
        self._burst = burst
        self._due = 0
        """The moment of the next event if all events kept the rate."""

    def next(self) -> int:
        """Return when the next one may happen."""
        return self._due - (self._burst - 1) * self.gap_ns

    def take(self, now: int) -> bool:
        """Use up one event now. Return False if it is too early."""
        if now < self.next():
            return False
        self._due = max(self._due, now) + self.gap_ns
        return True
