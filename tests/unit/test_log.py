"""What stands in the log, for people and for machines."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from gateway_agent import log

EVIL = "policy\x1b[2J\r\n2026-11-28 00:00:00,000 ERROR   forged \u202e\x9b.yaml"


def record(message: str, *arguments: object, failed: bool = False) -> logging.LogRecord:
    found = sys.exc_info() if failed else None
    return logging.LogRecord("gateway_agent", logging.ERROR, "x.py", 1, message, arguments, found)


def test_a_line_of_text_neither_steers_a_terminal_nor_forges_another() -> None:
    line = log.TextFormatter().format(record("%s: is bad", EVIL))
    assert line.isprintable()
    assert "policy\\x1b[2J\\r\\n2026-11-28 00:00:00,000 ERROR   forged \\u202e\\x9b.yaml: is bad" in line


def test_a_traceback_has_lines_of_its_own() -> None:
    try:
        raise ValueError(EVIL)
    except ValueError:
        text = log.TextFormatter().format(record("it failed", failed=True))
    first, *rest = text.split("\n")
    assert first.endswith("it failed")
    assert all(line.startswith("  ") and line.isprintable() for line in rest)
    assert any("ValueError: policy\\x1b[2J" in line for line in rest)


def test_a_line_of_json_is_one_line() -> None:
    line = log.JsonFormatter().format(record("%s", EVIL))
    assert line.isascii() and line.isprintable()
    assert json.loads(line)["message"] == EVIL


@pytest.mark.parametrize("message", ["x" * 10**6, "\0" * 10**6])
def test_a_long_line_is_cut(message: str) -> None:
    assert len(log.TextFormatter().format(record(message))) < 10 * log.MAX_LINE_CHARS
