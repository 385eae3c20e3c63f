from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway_agent.guard_file import NAME, GuardFile


def test_rules_outlive_the_object_that_wrote_them(tmp_path: Path) -> None:
    state = tmp_path / "not" / "there"
    GuardFile(state).write("table inet a")
    assert GuardFile(state).read() == "table inet a"
    assert (state / NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_rules_that_cannot_be_read_are_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / NAME).write_bytes(content)
    assert GuardFile(tmp_path).read() == ""


def test_equal_rules_are_not_written_again(tmp_path: Path) -> None:
    GuardFile(tmp_path).write("one")
    before = (tmp_path / NAME).stat()
    same = GuardFile(tmp_path)
    same.write("one")
    same.write("one")
    assert (tmp_path / NAME).stat().st_ino == before.st_ino
    same.write("two")
    assert same.read() == "two"


def test_rules_that_another_program_removed_are_written_again(tmp_path: Path) -> None:
    file = GuardFile(tmp_path)
    file.write("one")
    os.unlink(tmp_path / NAME)
    file.write("one")
    assert file.read() == "one"


def test_removal_may_be_done_twice(tmp_path: Path) -> None:
    file = GuardFile(tmp_path)
    file.write("one")
    assert [file.remove(), file.remove()] == [True, False]
    file.write("one")
    assert file.read() == "one"
