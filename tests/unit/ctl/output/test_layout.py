"""Tables on a terminal: a word is never cut, and what fits less is left out first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from gateway_agent.ctl.output.layout import GAP, fitted

HEADINGS = ("A", "B", "C", "D")
cells = st.text(alphabet="ab .:", max_size=30)
tables = st.lists(st.tuples(cells, cells, cells, cells), max_size=5)


@given(tables, st.integers(1, 200), st.permutations(HEADINGS[1:]))
def test_no_name_is_cut_and_the_width_is_kept_if_it_can_be(
    rows: list[tuple[str, ...]], width: int, spare: list[str]
) -> None:
    shown, widths = fitted(HEADINGS, rows, width, spare)
    message = [
        max(cell_len(w) for row in (HEADINGS, *rows) for w in (row[n].split() or [""])) for n in range(4)
    ]
    assert all(found >= message[number] for number, found in zip(shown, widths, strict=True))
    total = sum(widths) + GAP * (len(widths) - 1)
    assert total <= width or shown == [0]
    if len(shown) < len(HEADINGS):
        assert sum(message) + GAP * 3 > width


def test_what_is_empty_goes_before_what_is_not() -> None:
    rows = [("gateway", "172.16.0.50", "", "3")]
    shown, _ = fitted(("GATEWAY", "IP", "REASON", "EPOCH"), rows, 27, ("EPOCH", "REASON"))
    assert shown == [0, 1, 3]


def test_all_is_shown_in_one_line_if_there_is_room() -> None:
    rows = [("a b c", "d e", "", "f")]
    assert fitted(HEADINGS, rows, 1000, HEADINGS) == ([0, 1, 2, 3], [5, 3, 1, 1])
