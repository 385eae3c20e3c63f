"""Log lines for people (text) or for machines (JSON), on stderr."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from .printable import printable

MAX_LINE_CHARS = 4_000
"""Characters of one line."""


class TextFormatter(logging.Formatter):
    """One line each: time, level, message; a traceback has lines of its own.

    What is logged may be the name of a file, a label, an answer of the API: it neither steers the terminal that shows
    it nor makes a line that looks like another one of ours.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line with what a terminal would obey escaped."""
        return printable(super().formatMessage(record), MAX_LINE_CHARS)

    def formatException(self, ei: Any) -> str:
        """Return the lines of a traceback, indented."""
        return "\n".join(
            f"  {printable(line, MAX_LINE_CHARS)}" for line in super().formatException(ei).splitlines()
        )


class JsonFormatter(logging.Formatter):
    """One JSON object each line: time (RFC 3339, UTC), level, message, logger."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "logger": record.name,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up(level: str, form: str) -> None:
    """``level`` and ``form`` as in the configuration's ``log``."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # It logs each change of a watched file; what follows from the change is logged by the agent.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
