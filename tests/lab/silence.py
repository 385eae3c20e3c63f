"""What a row of probes says about a failure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Probe:
    """One datagram, sent at ``sent`` (ns). ``address``: the one the outside saw; empty: no answer came."""

    sent: int
    address: str
    welcome: bool = True


@dataclass(frozen=True)
class Silence:
    """The longest row of probes without an answer."""

    milliseconds: float
    """Milliseconds from the last answered probe before the silence to the first one after it, by sending time; 0:
    none was lost.
    """
    lost: int
    """Number of all probes without an answer, in this row or not."""
    ended: bool
    """True if an answered probe follows."""


def longest(probes: Sequence[Probe]) -> Silence:
    """Return the longest silence in a row of probes.

    A pause of the prober itself, with no probe lost, is no silence: that is the machine's noise.
    """
    worst, worst_ended, start = 0, True, None
    last_answered = probes[0].sent if probes else 0
    for probe in probes:
        if not probe.address:
            start = last_answered if start is None else start
            continue
        if start is not None and probe.sent - start > worst:
            worst, worst_ended = probe.sent - start, True
        start, last_answered = None, probe.sent
    if start is not None and probes[-1].sent - start >= worst:
        worst, worst_ended = probes[-1].sent - start, False
    return Silence(worst / 1e6, sum(not probe.address for probe in probes), worst_ended)


@dataclass(frozen=True)
class Summary:
    """Milliseconds over several runs."""

    runs: int
    median: float
    worst: float


def summary(milliseconds: Sequence[float]) -> Summary:
    return Summary(len(milliseconds), statistics.median(milliseconds), max(milliseconds))
