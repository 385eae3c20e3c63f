"""Changes of masters as text."""

from __future__ import annotations

import pytest

from gateway_agent import change_text


@pytest.mark.parametrize(
    ("before", "after", "silent_ms", "text"),
    [
        ("g1", "g2", 0, "g1 -> g2"),
        ("g1", "g2", 240, "g1 -> g2, silent for 240 ms"),
        ("", "g1", 0, "none -> g1"),
        ("g1", "", 30, "g1 -> none, silent for 30 ms"),
    ],
)
def test_the_last_change_names_both_masters_and_a_silence(
    before: str, after: str, silent_ms: int, text: str
) -> None:
    change = {"before": before, "after": after, "silentMs": silent_ms, "epoch": 7}
    assert change_text.last_change(change, "->") == text
    assert change_text.masters(change, "->") == text.partition(",")[0]


def test_without_a_change_there_is_a_dash() -> None:
    assert change_text.last_change(None, "→") == "-"


def test_the_arrow_is_that_of_the_output() -> None:
    assert change_text.masters({"before": "g1", "after": "g2"}, "→") == "g1 → g2"
