"""What a bench leaves behind: a table in a document, between marks, and a picture."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..lab.silence import Summary, summary

COLOURS = ("#1b6ca8", "#e08e0b", "#7a7a7a", "#b04a5a", "#4a8f4a", "#6a4a8f")
_MARGIN, _LABEL, _PLOT, _RIGHT = 20, 190, 760, 60
_BAR, _GAP, _HEAD = 13, 12, 84
_TEXT, _AXIS, _RULE = "#222222", "#555555", "#dddddd"


@dataclass(frozen=True)
class Row:
    """One contender under one failure."""

    failure: str
    contender: str
    silences: Sequence[float]
    """Silence of each run, milliseconds."""
    lost: int
    """Largest number of datagrams lost in one run."""
    overlap: float
    """Longest time with two owners in all runs, milliseconds."""

    @property
    def summary(self) -> Summary:
        return summary(self.silences)


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| failure | | runs | median | worst | most lost | two owners |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        found = row.summary
        owners = f"**{row.overlap:.1f} ms**" if row.overlap else "never"
        lines.append(
            f"| {row.failure} | {row.contender} | {found.runs} | {found.median:.0f} | {found.worst:.0f} "
            f"| {row.lost} | {owners} |"
        )
    return "\n".join(lines) + "\n"


def machine() -> str:
    """One sentence: when, on what, and with which versions it was measured."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")),
        platform.machine(),
    )  # fmt: skip
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = {
        "Linux": platform.release(),
        "Python": platform.python_version(),
        "nftables": _version("nft", "--version"),
        "keepalived": _version("keepalived", "--version"),
    }
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    return f"Measured on {today}: {os.cpu_count()} × {model}, {memory:.0f} GiB; {listed}."


def write_section(document: Path, name: str, text: str) -> None:
    """Put ``text`` between the marks of ``name`` in a document; where there are none, behind its end."""
    begin, end = f"<!-- {name}: written by the bench -->", f"<!-- {name}: end -->"
    old = document.read_text() if document.exists() else ""
    section = f"{begin}\n{text.rstrip()}\n{end}"
    head, mark, rest = old.partition(begin)
    if mark:
        _, closed, tail = rest.partition(end)
        if not closed:
            raise ValueError(f"{document}: {begin} has no end")
        new = head + section + tail
    else:
        new = f"{old.rstrip()}\n\n{section}\n".lstrip()
    draft = document.with_suffix(".draft")
    draft.write_text(new)
    os.replace(draft, document)


def plot(path: Path, title: str, rows: Sequence[Row], limit: float = 0.0) -> None:
    """Draw a PNG with a bar to the median and a line to the worst for each row; two owners are marked.

    ``limit``: milliseconds of the right end; 0: as far as the worst of all rows. What is longer is cut and said.
    """
    groups = _grouped(rows)
    contenders = list(dict.fromkeys(row.contender for row in rows))
    most = limit or max(row.summary.worst for row in rows) or 1.0
    height = _HEAD + sum(len(group) * _BAR + _GAP for group in groups.values()) + 40
    image = Image.new("RGB", (_MARGIN + _LABEL + _PLOT + _RIGHT, height), "white")
    drawing = _Drawing(image, most)
    drawing.head(title, contenders, height)
    top = _HEAD
    for failure, group in groups.items():
        drawing.label(failure, top + len(group) * _BAR / 2)
        for row in group:
            drawing.bar(row, COLOURS[contenders.index(row.contender) % len(COLOURS)], top)
            top += _BAR
        top += _GAP
    image.save(path)


class _Drawing:
    def __init__(self, image: Image.Image, most: float) -> None:
        self._draw = ImageDraw.Draw(image)
        self._most = most
        self._font = ImageFont.load_default(12)
        self._small = ImageFont.load_default(11)
        self._bold = ImageFont.load_default(16)

    def head(self, title: str, contenders: Sequence[str], height: int) -> None:
        self._draw.text((_MARGIN, 10), title, _TEXT, self._bold)
        left, top = _MARGIN + _LABEL, 38
        for number, contender in enumerate(contenders):
            width = 40 + round(self._draw.textlength(contender, self._font))
            if left + width > _MARGIN + _LABEL + _PLOT + _RIGHT:
                left, top = _MARGIN + _LABEL, top + 20
            self._draw.rectangle((left, top + 2, left + 10, top + 12), COLOURS[number % len(COLOURS)])
            self._draw.text((left + 16, top), contender, _TEXT, self._font)
            left += width
        for value in _ticks(self._most):
            x = self._x(value)
            self._draw.line((x, _HEAD - 4, x, height - 34), _RULE)
            self._draw.text((x, height - 24), f"{value:g}", _AXIS, self._small, anchor="mt")
        self._draw.text((_MARGIN, height - 24), "milliseconds of silence", _AXIS, self._small)

    def label(self, failure: str, middle: float) -> None:
        self._draw.text((_MARGIN + _LABEL - 12, middle), failure, _TEXT, self._font, anchor="rm")

    def bar(self, row: Row, colour: str, top: int) -> None:
        found, middle = row.summary, top + _BAR / 2
        self._draw.rectangle((self._x(0), top + 1, self._x(found.median), top + _BAR - 2), colour)
        self._draw.line((self._x(found.median), middle, self._x(found.worst), middle), colour, 2)
        self._draw.line((self._x(found.worst), top + 2, self._x(found.worst), top + _BAR - 3), colour, 2)
        message = f"{found.median:.0f} / {found.worst:.0f}"
        if row.overlap:
            message += f"   two owners: {row.overlap:.0f} ms"
        self._draw.text((self._x(found.worst) + 6, middle), message, colour, self._small, anchor="lm")

    def _x(self, value: float) -> float:
        return _MARGIN + _LABEL + min(value, self._most) / self._most * (_PLOT - 140)


def _grouped(rows: Sequence[Row]) -> Mapping[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.failure, []).append(row)
    return groups


def _ticks(most: float) -> list[float]:
    steps = [base * 10**power for power in range(-1, 7) for base in (1, 2, 5)]
    step = next(step for step in steps if most / step <= 8)
    return [step * number for number in range(int(most / step) + 1)]


def _version(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    message = (done.stdout + done.stderr).split()
    return next((token.strip("v,") for token in message if token.lstrip("v")[:1].isdigit()), "unknown")
