from __future__ import annotations

from tests.lab.asking import Answer, recovered
from tests.lab.connections import Fates, Outcome, fates

MS = 1_000_000


def test_only_addresses_of_the_lost_node_recover() -> None:
    answers = {
        "lost": [Answer(1 * MS, "old"), Answer(5 * MS, "old"), Answer(9 * MS, "new")],
        "of another node": [Answer(1 * MS, "new"), Answer(9 * MS, "new")],
        "never answered": [],
        "lost for good": [Answer(1 * MS, "old")],
    }
    assert recovered(answers, 4 * MS, "old") == {"lost": 5.0, "lost for good": None}


def test_an_address_that_had_moved_before_is_not_lost() -> None:
    answers = {"a": [Answer(1 * MS, "old"), Answer(2 * MS, "new"), Answer(9 * MS, "other")]}
    assert recovered(answers, 4 * MS, "old") == {}


def outcome(alive: bool = False, ended: int = 0, error: str = "", pause: float = 0.0) -> Outcome:
    return Outcome("172.16.0.50", alive, ended, error, pause, 100)


def test_fates_of_connections() -> None:
    outcomes = [
        outcome(alive=True, pause=410.0),
        outcome(alive=True, pause=5.0),
        outcome(ended=900 * MS, error="ECONNRESET", pause=400.0),
        outcome(ended=700 * MS, error="EOF"),
        outcome(pause=5000.0),
    ]
    errors = {"ECONNRESET": 1, "EOF": 1}
    assert fates(outcomes, 600 * MS) == Fates(2, 2, 1, 300.0, 410.0, 1, errors)
    assert fates([], 0) == Fates(0, 0, 0, 0.0, 0.0, 0, {})
