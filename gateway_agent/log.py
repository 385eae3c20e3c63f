"""Format log lines on stderr, for people (text) or for machines (JSON)."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from .printable import printable

MAX_LINE_CHARS = 4_000
"""Characters after which a line is cut."""


class TextFormatter(logging.Formatter):
    """Format a record as one line: time, level, message. A traceback follows on indented lines.

    A message may hold text from outside: a file name, a label, an answer of the API. So control characters are
    escaped: such text can neither control the terminal nor forge a log line.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line with control characters escaped."""
        return printable(super().formatMessage(record), MAX_LINE_CHARS)

    def formatException(self, ei: Any) -> str:
        """Return the lines of a traceback, indented."""
        return "\n".join(
            f"  {printable(line, MAX_LINE_CHARS)}" for line in super().formatException(ei).splitlines()
        )


class JsonFormatter(logging.Formatter):
    """Format a record as one JSON object on one line: time (RFC 3339, UTC), level, message, logger, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a JSON object without line breaks."""
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
    """Log to stderr. ``level`` and ``form``: as ``log.level`` and ``log.format`` in the configuration."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # watchfiles logs each change of a watched file; the agent logs the consequences.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
