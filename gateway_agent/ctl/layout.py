"""Tables that fit a terminal and never cut an address or a name in two."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

GAP = 2
"""Blanks between two columns."""
Rows = Sequence[Sequence[str]]


def fitted(
    headings: Sequence[str], rows: Rows, width: int, spare: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Return the columns to show and their widths, both in terminal cells' order.

    A column is at least as wide as its longest word. If that is too much for ``width``, columns are left out: those
    without content first, then ``spare`` by heading in this order. If it still is too much, the table is wider.
    """
    columns = list(zip(headings, *rows, strict=True))
    words = [max(cell_len(word) for cell in column for word in (cell.split() or [""])) for column in columns]
    full = [max(map(cell_len, column)) for column in columns]
    empty = [column[0] for column in columns if not any(cell not in ("", "-") for cell in column[1:])]
    shown = list(range(len(headings)))
    for heading in (*(heading for heading in empty if heading in spare), *spare):
        if _total([words[number] for number in shown]) <= width:
            break
        shown = [number for number in shown if headings[number] != heading]
    widths = [words[number] for number in shown]
    left = max(0, width - _total(widths))
    # The first columns are the short ones; what is left over goes to where the text is.
    for place, number in enumerate(shown):
        more = min(full[number] - words[number], left)
        widths[place] += more
        left -= more
    return shown, widths


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * max(0, len(widths) - 1)
