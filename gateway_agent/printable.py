"""Escape text from outside before it is shown in a log line, on a terminal or in a page."""

from __future__ import annotations

MAX_CHARS = 500
"""Characters after which a text is cut."""


def printable(text: str, limit: int = MAX_CHARS) -> str:
    """Return ``text`` with non-printable characters and lone surrogates escaped, cut to ``limit`` characters.

    A backslash is not escaped: the result is read by people, not by a parser.
    """
    cut = text if len(text) <= limit else f"{text[: limit - 1]}…"
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
