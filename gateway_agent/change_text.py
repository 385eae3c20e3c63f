"""Write changes of masters as text, for the page and for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Change = Mapping[str, Any]
"""A change as in the JSON of status and events: at least ``before``, ``after`` and ``silentMs``."""


def masters(change: Change, arrow: str) -> str:
    """Return the masters before and after a change, with ``arrow`` between their names."""
    return f"{change['before'] or 'none'} {arrow} {change['after'] or 'none'}"


def last_change(change: Change | None, arrow: str) -> str:
    """Return the masters of the last change, and its silence if there was any; ``-`` if there was no change."""
    if change is None:
        return "-"
    silent = f", silent for {change['silentMs']} ms" if change["silentMs"] else ""
    return f"{masters(change, arrow)}{silent}"
