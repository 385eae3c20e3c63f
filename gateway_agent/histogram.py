"""Count values by upper bounds, like a Prometheus histogram."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Histogram:
    """The number of values up to each bound, the number of all, and their sum. The unit is that of the bounds."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...] = ()
    """Number of values up to each bound; empty if there was no value."""
    number: int = 0
    total: float = 0

    def plus(self, value: float) -> Histogram:
        """Return the histogram with one more value."""
        counts = self.counts or (0,) * len(self.bounds)
        counts = tuple(count + (value <= bound) for count, bound in zip(counts, self.bounds, strict=True))
        return replace(self, counts=counts, number=self.number + 1, total=self.total + value)

    def cumulated(self) -> tuple[int, ...]:
        """Return the number of values up to each bound, and of all."""
        return (*(self.counts or (0,) * len(self.bounds)), self.number)
