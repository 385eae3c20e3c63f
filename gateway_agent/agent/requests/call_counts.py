"""Count the CNI calls of this process by command and result, with their durations."""

from __future__ import annotations

from collections.abc import Mapping

from ...histogram import Histogram

BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histograms, seconds."""
UNKNOWN = "unknown"
"""Command of a request that is no CNI call."""


class CallCounts:
    """The counts. Their only writer is :mod:`.cni_calls`."""

    def __init__(self) -> None:
        self._histograms: dict[tuple[str, int], Histogram] = {}

    def count(self, command: str, code: int, seconds: float) -> None:
        """Count a call. ``code``: the error code of the answer; 0: success."""
        key = command, code
        self._histograms[key] = self._histograms.get(key, Histogram(BOUNDS_S)).plus(seconds)

    def histograms(self) -> Mapping[tuple[str, int], Histogram]:
        """Return the durations of the calls, seconds, by (command, code)."""
        return dict(self._histograms)
