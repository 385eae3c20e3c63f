"""Every run of a bench, kept in a file as it comes: what was interrupted goes on where it was."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..lab.silence import Summary
from .report import Row

_NUMBER = re.compile(r"\d+(\.\d+)?")


class Result(msgspec.Struct, frozen=True):
    """One contender under one failure, once. A run that did not come to its end has ``problems`` alone."""

    failure: str
    contender: str
    seconds: float
    """Seconds that the run took."""
    silence: float | None = None
    """Longest silence, milliseconds."""
    lost: int = 0
    """Datagrams lost."""
    overlap: float = 0.0
    """Milliseconds with two owners."""
    problems: tuple[str, ...] = ()
    detail: dict[str, object] = {}
    """Every value that was measured."""


class Stored(msgspec.Struct):
    """What the file holds."""

    machines: list[str] = []
    """Dates and machines of the measurements: one sentence for each day and machine."""
    results: list[Result] = []


class Results:
    """``path``: read where it is there, written after each run; without one they are kept in memory."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.stored = Stored()
        if path is not None and path.exists():
            self.stored = msgspec.json.decode(path.read_bytes(), type=Stored)

    def add(self, result: Result, machine: str) -> None:
        if machine not in self.stored.machines:
            self.stored.machines.append(machine)
        self.stored.results.append(result)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft = self._path.with_suffix(".draft")
            draft.write_bytes(msgspec.json.format(msgspec.json.encode(self.stored), indent=1) + b"\n")
            os.replace(draft, self._path)

    def of(self, failure: str, contender: str) -> list[Result]:
        return [r for r in self.stored.results if (r.failure, r.contender) == (failure, contender)]

    def pace(self, failure: str, contender: str) -> float:
        """Seconds that such a run takes, by what is known; 0 where nothing is."""
        known = self.of(failure, contender) or [r for r in self.stored.results if r.contender == contender]
        known = known or self.stored.results
        return sum(r.seconds for r in known) / len(known) if known else 0.0

    def row(self, failure: str, contender: str) -> Row | None:
        """None where no run came to its end."""
        ended = [r for r in self.of(failure, contender) if r.silence is not None]
        if not ended:
            return None
        silences = [r.silence for r in ended if r.silence is not None]
        return Row(failure, contender, silences, max(r.lost for r in ended), max(r.overlap for r in ended))

    def rows(self, failures: Sequence[str], contenders: Sequence[str]) -> list[Row]:
        """In this order, as far as there are any."""
        found = (self.row(failure, contender) for failure in failures for contender in contenders)
        return [row for row in found if row is not None]

    def problems(self) -> list[str]:
        """Return the errors, each with its failure and number. Of texts that differ only in numbers, the worst."""
        alike: dict[tuple[str, str, str], list[str]] = {}
        for result in self.stored.results:
            for text in result.problems:
                key = result.failure, result.contender, _NUMBER.sub("", text)
                alike.setdefault(key, []).append(text)
        return [
            f"{failure}, {contender}: {max(texts, key=_first_number)}"
            + (f" (the worst of {len(texts)} runs)" if len(texts) > 1 else "")
            for (failure, contender, _), texts in alike.items()
        ]


def _first_number(text: str) -> float:
    found = _NUMBER.search(text)
    return float(found[0]) if found else 0.0


def compared(ours: Summary, theirs: Summary, median: float = 1.0, worst: float = 1.3) -> tuple[str, bool]:
    """Whether a goal is met that ours is at most so many times theirs, in words and as it is."""
    ratios = (ours.median / theirs.median, ours.worst / theirs.worst)
    met = ratios[0] <= median and ratios[1] <= worst
    message = (
        f"median {ours.median:.1f} ms beside {theirs.median:.1f} ms ({ratios[0]:.3f} times; the goal is {median:g}), "
        f"worst {ours.worst:.1f} ms beside {theirs.worst:.1f} ms ({ratios[1]:.3f} times; the goal is {worst:g}): "
        f"{'met' if met else '**not met**'}"
    )
    return message, met
