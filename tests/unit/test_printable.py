"""Text from outside, escaped before it is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_agent.printable import MAX_CHARS, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("prod/web-0", "prod/web-0"),
        ("naïve – ✓", "naïve – ✓"),
        ("a\nINFO forged", "a\\nINFO forged"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\u202etxt.exe", "\\u202etxt.exe"),
        ("half \ud800", "half \\ud800"),
        ("back\\slash", "back\\slash"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_long_text_is_cut() -> None:
    assert printable("x" * MAX_CHARS) == "x" * MAX_CHARS
    assert printable("x" * (MAX_CHARS + 1)) == "x" * (MAX_CHARS - 1) + "…"
    assert printable("abcdef", 3) == "ab…"


@given(st.text(st.characters(codec=None), max_size=40))
def test_the_result_can_be_printed_and_encoded(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode("utf-8")
    assert printable(shown) == shown
