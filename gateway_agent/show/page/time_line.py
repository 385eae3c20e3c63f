"""Draw the last changes of masters as a picture: a bar for each egress IP, in parts by master, with each silence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from ... import printable

Answer = Mapping[str, Any]
MAX_BARS = 12
"""Egress IPs in the picture: those that have changed last."""
MIN_SPAN_S = 60.0
BAR_HEIGHT, TOP = 60, 18
"""Height of one egress IP, and of the bar in it below its name, pixels."""
THICKNESS = 20
LABEL_PERCENT = 16
"""Width of a text, in percent of the picture: texts that are nearer to each other are left out."""


def picture(events: Sequence[Answer], now: str) -> str:
    """Return the changes as SVG; an empty text if there are none. ``events``: by age. ``now``: RFC 3339.

    Texts keep their size on a small screen, since places and widths are in percent.
    """
    changes = [one for one in events if one["before"] != one["after"]]
    bars: dict[tuple[str, str], list[Answer]] = {}
    for change in reversed(changes):
        bars.setdefault((change["gateway"], change["ip"]), []).insert(0, change)
    shown = dict(list(bars.items())[:MAX_BARS])
    if not shown:
        return ""
    scale = _Scale(min(change["at"] for each in shown.values() for change in each), now)
    height = len(shown) * BAR_HEIGHT + TOP
    parts = [f'<svg role="img" width="100%" height="{height}" aria-label="{_description(shown, scale)}">']
    for number, ((gateway, address), found) in enumerate(sorted(shown.items())):
        parts += _bar(number * BAR_HEIGHT, f"{gateway} {address}".rstrip(), found, scale)
    foot = height - 4
    parts.append(f'<text class="faint" x="0" y="{foot}">{_text(scale.begin)}</text>')
    parts.append(f'<text class="faint end" x="100%" y="{foot}">now</text></svg>')
    return "".join(parts)


class _Scale:
    """Places of times between the first change and now."""

    def __init__(self, begin: str, now: str) -> None:
        self.begin = begin
        self._end = _seconds(now)
        self._span = max(self._end - _seconds(begin), MIN_SPAN_S)

    def percent(self, at: str) -> int:
        """Return the place of a time, in whole percent: the picture is sent again only if something has moved."""
        return max(0, min(100, round(100 - (self._end - _seconds(at)) * 100 / self._span)))


def _bar(top: int, name: str, changes: Sequence[Answer], scale: _Scale) -> Iterator[str]:
    yield f'<text x="0" y="{top + 13}">{_text(name)}</text>'
    places = [scale.percent(change["at"]) for change in changes]
    masters = [changes[0]["before"], *(change["after"] for change in changes)]
    for master, left, right in zip(masters, [0, *places], [*places, 100], strict=True):
        if master and right > left:
            box = f'x="{left}%" y="{top + TOP}" width="{right - left}%" height="{THICKNESS}"'
            yield f'<rect class="master" {box}/>'
            if right - left >= LABEL_PERCENT:
                yield f'<text class="middle" x="{(left + right) / 2:g}%" y="{top + TOP + 15}">{_text(master)}</text>'
    yield from _silences(top, changes, places)


def _silences(top: int, changes: Sequence[Answer], places: Sequence[int]) -> Iterator[str]:
    """Yield a mark for each change, and the length of its silence where there is room for it."""
    labelled = -LABEL_PERCENT
    for change, place in zip(changes, places, strict=True):
        kind = "ends" if not change["after"] else "silent" if change["silentMs"] else "planned"
        yield f'<rect class="{kind}" x="{place}%" y="{top + TOP - 3}" width="3" height="{THICKNESS + 6}"/>'
        text = f"{change['silentMs']} ms" if change["after"] and change["silentMs"] else ""
        if text and place - labelled >= LABEL_PERCENT:
            side = "end" if place > 100 - LABEL_PERCENT else "faint"
            yield f'<text class="faint {side}" x="{place}%" y="{top + TOP + THICKNESS + 15}">{text}</text>'
            labelled = place


def _description(shown: Mapping[Any, Sequence[Answer]], scale: _Scale) -> str:
    """Return the picture as a text, for screen readers."""
    changes = [change for found in shown.values() for change in found]
    longest = max(change["silentMs"] for change in changes)
    return _text(
        f"{len(changes)} changes since {scale.begin}, the longest silence {longest} ms. The table has each."
    )


def _text(text: str) -> str:
    return escape(printable.printable(text))


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
