"""What a schedule is made of. How it runs, the lab shows."""

from __future__ import annotations

import random
from itertools import islice

from tests.bench.schedule import LASTS, RESUMED, RESUMED_EACH, deck, plan
from tests.bench.virtual import FROZEN_S, VIRTUAL_FAILURES

KINDS = {failure.name for failure in VIRTUAL_FAILURES}


def test_every_kind_of_fault_comes_before_any_comes_again() -> None:
    faults = deck(random.Random(1))
    first = [fault.failure.name for fault in islice(faults, len(KINDS))]
    second = [fault.failure.name for fault in islice(faults, len(KINDS) - 1)]
    assert sorted(first) == sorted(KINDS)
    assert sorted(second) == sorted(KINDS - {RESUMED})


def test_the_ten_seconds_come_less_often_and_short_ones_as_often_as_long_ones() -> None:
    count = RESUMED_EACH * (len(KINDS) - 1) + 1
    faults = list(islice(deck(random.Random(2)), count))
    lasting = [fault.seconds for fault in faults if fault.failure.name != RESUMED]
    assert [fault.seconds for fault in faults if fault.failure.name == RESUMED] == [FROZEN_S]
    assert all(LASTS[0] <= seconds <= LASTS[1] for seconds in lasting)
    assert 0.4 < sum(seconds < (LASTS[0] * LASTS[1]) ** 0.5 for seconds in lasting) / len(lasting) < 0.6


def test_a_round_heals_what_it_strikes_and_no_two_kinds_are_the_same() -> None:
    source = random.Random(3)
    faults = deck(source)
    rounds = [plan(source, faults) for _ in range(200)]
    for events in rounds:
        struck = [event.fault for event in events if not event.heals]
        assert {event.fault for event in events if event.heals} == set(struck)
        assert all(fault.failure.name != struck[0].failure.name for fault in struck[1:])
        assert [event.at for event in events] == sorted(event.at for event in events)
    assert any(len(events) > 2 for events in rounds)


def test_a_seed_gives_the_same_faults() -> None:
    def drawn(seed: int) -> list[tuple[str, float]]:
        source = random.Random(seed)
        faults = deck(source)
        return [(e.fault.failure.name, e.at) for _ in range(30) for e in plan(source, faults)]

    assert drawn(4) == drawn(4)
    assert drawn(4) != drawn(5)
