"""Text from outside, made fit to be shown: in a log line, on a terminal, in a page."""

from __future__ import annotations

MAX_CHARS = 500
"""Characters of one text that are shown."""


def printable(text: str, limit: int = MAX_CHARS) -> str:
    """Return ``text`` with every character escaped that a terminal would obey or UTF-8 cannot hold, and shortened.

    A backslash stays as it is: the result is for people, not to be read back.
    """
    cut = text if len(text) <= limit else f"{text[: limit - 1]}…"
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
