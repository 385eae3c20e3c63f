"""Rounds of probes: which addresses are silent, and when that is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway_agent.adapters.probes.probing import Probe

ONE, TWO = "198.51.100.1", "2001:db8::1"


class Scripted(Probe):
    """A probe whose rounds are answered as written; the task ends with the last one."""

    def __init__(self, rounds: Sequence[str | OSError], misses: int) -> None:
        super().__init__("eth1", (ONE, TWO), 0.0, misses, self.note)
        self.left = list(rounds)
        self.reported: list[tuple[str, ...]] = []

    def note(self) -> None:
        self.reported.append(self.silent)

    async def _round(self, answered: set[str], deadline: float) -> None:
        if not self.left:
            raise asyncio.CancelledError
        found = self.left.pop(0)
        if isinstance(found, OSError):
            raise found
        answered.update(found.split())


def reported(rounds: Sequence[str | OSError], misses: int = 2) -> list[tuple[str, ...]]:
    """Return the silent addresses at each change."""
    probe = Scripted(rounds, misses)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(probe.run())
    return probe.reported


BOTH = f"{ONE} {TWO}"


@pytest.mark.parametrize(
    ("rounds", "changes"),
    [
        ([BOTH] * 5, []),
        ([BOTH, "", BOTH, "", BOTH], []),
        ([BOTH, ONE, ONE], [(TWO,)]),
        ([BOTH, ONE, ONE, ONE, ONE], [(TWO,)]),
        ([ONE, ONE, BOTH], [(TWO,), ()]),
        ([ONE, "", ""], [(TWO,), (ONE, TWO)]),
    ],
    ids=["all answer", "single losses", "one silent", "told once", "it answers again", "then both"],
)
def test_an_address_is_silent_after_some_misses_in_a_row(
    rounds: list[str | OSError], changes: list[tuple[str, ...]]
) -> None:
    assert reported(rounds) == changes


def test_an_interface_that_is_not_there_is_silence() -> None:
    gone = OSError(19, "No such device")
    assert reported([BOTH, gone, gone, BOTH]) == [(ONE, TWO), ()]


def test_addresses_stay_in_their_order() -> None:
    assert Scripted([], 1).addresses == (ONE, TWO)


@pytest.mark.parametrize(
    ("rounds", "silent", "left"),
    [
        ([BOTH, ""], (), 1),
        ([ONE, TWO], (), 0),
        (["", BOTH, ""], (), 1),
        ([ONE, ONE, BOTH], (TWO,), 1),
        (["", OSError(19, "No such device"), BOTH], (ONE, TWO), 1),
    ],
    ids=["all answer", "in turns", "late", "one silent", "no interface"],
)
def test_a_single_test_ends_with_the_answers_or_the_misses(
    rounds: list[str | OSError], silent: tuple[str, ...], left: int
) -> None:
    """``left``: rounds that are not needed."""
    probe = Scripted(rounds, 2)
    assert asyncio.run(probe.settle()) == silent
    assert len(probe.left) == left
