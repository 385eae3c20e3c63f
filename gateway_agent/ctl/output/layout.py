"""Compute tables that fit a terminal without splitting an address or a name."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

GAP = 2
"""Spaces between two columns."""
Rows = Sequence[Sequence[str]]


def fitted(
    headings: Sequence[str], rows: Rows, width: int, spare: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Return the indices of the shown columns and their widths, terminal cells.

    A column is at least as wide as its longest word. If the table does not fit into ``width``, columns named in
    ``spare`` are left out: first those without content, then the others in this order. If it still does not fit, the
    table is wider.
    """
    columns = list(zip(headings, *rows, strict=True))
    longest = [
        max(cell_len(part) for cell in column for part in (cell.split() or [""])) for column in columns
    ]
    full = [max(map(cell_len, column)) for column in columns]
    empty = [column[0] for column in columns if not any(cell not in ("", "-") for cell in column[1:])]
    shown = list(range(len(headings)))
    for heading in (*(heading for heading in empty if heading in spare), *spare):
        if _total([longest[number] for number in shown]) <= width:
            break
        shown = [number for number in shown if headings[number] != heading]
    widths = [longest[number] for number in shown]
    left = max(0, width - _total(widths))
    # The first columns are short. They get the remaining width first, so that long text gets what is left.
    for place, number in enumerate(shown):
        more = min(full[number] - longest[number], left)
        widths[place] += more
        left -= more
    return shown, widths


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * max(0, len(widths) - 1)
