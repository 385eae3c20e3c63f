"""What ``docs/security.md`` says that others cannot do: each such line names tests that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "security.md"
NAMED = re.compile(r"`(?P<file>[\w/]+\.py)?::(?P<test>\w+)`")
ANY_FILE = re.compile(r"`tests/[\w/]+\.py`")


def named(line: str) -> Iterator[tuple[str, str]]:
    """Yield file and function of each test that a line names; without a file it is that of the one before."""
    file = ""
    for found in NAMED.finditer(line):
        file = found["file"] or file
        yield file, found["test"]


@cache
def functions_of(file: str) -> frozenset[str]:
    """Return the names of the tests in a file; none if there is no such file."""
    path = REPOSITORY / file
    if not path.is_file():
        return frozenset()
    return frozenset(
        node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)
    )


def claims() -> Iterator[str]:
    """Yield each row of a table that says what somebody cannot do, or that nothing does."""
    for line in PAGE.read_text().splitlines():
        if re.match(r"\| (cannot|no) ", line):
            yield line


def test_each_cannot_names_tests_that_exist() -> None:
    found = {line: list(named(line)) for line in claims()}
    assert len(found) > 25
    assert [line for line, tests in found.items() if not tests] == []
    missing = [
        f"{file}::{test}"
        for tests in found.values()
        for file, test in tests
        if test not in functions_of(file)
    ]
    assert missing == []


def test_nothing_is_claimed_outside_the_tables_and_no_test_is_named_by_its_file_alone() -> None:
    text = PAGE.read_text()
    # The first paragraph says how to read the page, and names this file.
    introduction, _, rest = text.partition("## ")
    assert "cannot" in introduction
    loose = [line for line in rest.splitlines() if "cannot" in line and not line.startswith("| ")]
    assert loose == []
    assert ANY_FILE.findall(rest) == []
