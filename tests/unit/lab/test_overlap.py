from __future__ import annotations

import random
from typing import Any

import pytest

from tests.lab.overlap import (
    INTERVAL_MS,
    SHORT_SILENCE_MS,
    Frame,
    Overlap,
    Takeover,
    Tenures,
    longest_overlap,
    overlaps,
    owner_at_end,
    takeovers,
    tenures,
)

MS = 1_000_000
ADDRESS = "172.16.0.50"


def row(node: str, first: float, last: float, pace: float = 0.5, address: str = ADDRESS) -> list[Frame]:
    """One frame each ``pace`` milliseconds, both ends included."""
    count = round((last - first) / pace)
    return [Frame(round((first + pace * number) * MS), node, address) for number in range(count + 1)]


def test_one_after_the_other_is_no_overlap() -> None:
    frames = row("g1", 0, 100) + row("g2", 100.1, 300)
    assert overlaps(frames) == []
    silent: Any = pytest.approx(0.1)
    assert takeovers(frames) == [Takeover(ADDRESS, "g1", "g2", 100_100_000, silent)]


def test_a_single_change_overlaps_from_the_new_ones_first_to_the_old_ones_last_frame() -> None:
    frames = row("g1", 0, 100) + row("g2", 88, 300)
    assert overlaps(frames) == [Overlap(ADDRESS, "g1", "g2", 12.0, 88 * MS)]
    assert takeovers(frames)[0].gap == -12.0


def test_one_common_instant_is_an_overlap() -> None:
    assert longest_overlap(overlaps(row("g1", 0, 100) + row("g2", 100, 200))) == INTERVAL_MS


def test_a_lone_frame_of_another_is_an_overlap() -> None:
    frames = [*row("g1", 0, 100), Frame(50_200_000, "g2", ADDRESS, "claim")]
    assert overlaps(frames) == [Overlap(ADDRESS, "g1", "g2", INTERVAL_MS, 50_200_000)]


def test_a_late_frame_of_the_old_owner_is_an_overlap() -> None:
    frames = row("g1", 0, 100) + row("g2", 300, 600) + [Frame(400_200_000, "g1", ADDRESS)]
    assert overlaps(frames) == [Overlap(ADDRESS, "g2", "g1", INTERVAL_MS, 400_200_000)]


@pytest.mark.parametrize(("pause", "expected"), [(SHORT_SILENCE_MS - 1, 1), (SHORT_SILENCE_MS, 0), (300, 0)])
def test_who_comes_back_later_than_any_master_could_sooner_was_not_there_meanwhile(
    pause: float, expected: int
) -> None:
    frames = row("g1", 0, 100) + row("g2", 102, 103) + row("g1", 100 + pause, 500)
    assert len(overlaps(frames)) == expected


def test_two_owners_without_end() -> None:
    frames = row("g1", 0, 6000) + row("g2", 300.2, 6000.2)
    assert longest_overlap(overlaps(frames)) == pytest.approx(5699.8)


def test_three_owners_make_three_pairs() -> None:
    frames = row("g1", 0, 100) + row("g2", 50, 150) + row("g3", 60, 90)
    assert [(o.first, o.second) for o in overlaps(frames)] == [("g1", "g2"), ("g1", "g3"), ("g2", "g3")]


def test_addresses_have_owners_of_their_own() -> None:
    frames = row("g1", 0, 100) + row("g2", 0, 100, address="172.16.0.51")
    assert overlaps(frames) == []
    assert takeovers(frames) == []
    assert owner_at_end(frames, 20, 100 * MS) == {ADDRESS: ("g1",), "172.16.0.51": ("g2",)}


def test_the_order_in_which_frames_were_read_does_not_matter() -> None:
    frames = row("g1", 0, 100) + row("g2", 88, 300) + row("g1", 400, 500)
    shuffled = list(frames)
    random.Random(1).shuffle(shuffled)
    assert overlaps(shuffled) == overlaps(frames)
    assert tenures(shuffled) == tenures(frames)


def test_a_silent_owner_that_goes_on_is_no_takeover() -> None:
    frames = row("g1", 0, 100) + row("g1", 400, 500)
    assert len(tenures(frames)) == 2
    assert takeovers(frames) == []


@pytest.mark.parametrize(
    ("end", "window", "expected"),
    [(200, 20, ("g2",)), (200, 150, ("g1", "g2")), (300, 20, ())],
)
def test_owners_at_the_end(end: int, window: float, expected: tuple[str, ...]) -> None:
    frames = row("g1", 0, 100) + row("g2", 110, 200)
    assert owner_at_end(frames, window, end * MS) == {ADDRESS: expected}


def test_no_frames() -> None:
    assert overlaps([]) == []
    assert takeovers([]) == []
    assert owner_at_end([], 20, 0) == {}
    assert longest_overlap([]) == 0.0


def test_tenures_come_out_the_same_frame_by_frame() -> None:
    frames = (
        row("g1", 0, 100)
        + row("g2", 100.1, 300)
        + row("g1", 290, 400)
        + row("g1", 500, 510, address="10.0.0.1")
    )
    found = Tenures()
    for node in ("g2", "g1"):
        for frame in frames:
            if frame.node == node:
                found.add(frame.at, frame.node, frame.address)
    assert found.all() == tenures(frames)
    end = 510 * MS
    assert found.owners(200, end) == owner_at_end(frames, 200, end) == {ADDRESS: ("g1",), "10.0.0.1": ("g1",)}
    assert found.owners(5, end) == {ADDRESS: (), "10.0.0.1": ("g1",)}


def test_a_handover_there_and_back_is_no_overlap_and_one_attempt_in_between_is_one() -> None:
    there_and_back = row("g1", 0, 100) + row("g2", 100.5, 113.5) + row("g1", 114, 200)
    assert overlaps(there_and_back) == []
    assert [(change.old, change.new) for change in takeovers(there_and_back)] == [("g1", "g2"), ("g2", "g1")]
    in_between = row("g1", 0, 200) + row("g2", 100.1, 100.1)
    assert [(found.first, found.second) for found in overlaps(in_between)] == [("g1", "g2")]
