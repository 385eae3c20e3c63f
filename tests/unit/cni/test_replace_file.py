"""Files that are replaced as a whole or not at all."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cni.files import replace_file


def test_a_new_file_has_its_content_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "10-net.conflist"
    assert replace_file(path, b"new", 0o644)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o7777 == 0o644
    assert list(tmp_path.iterdir()) == [path], "no draft is left"


def test_a_draft_of_an_interrupted_call_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / ".file.draft").write_bytes(b"half")
    assert replace_file(path, b"whole", 0o600)
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_another_program_has_changed_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("theirs")
    assert not replace_file(path, b"ours", 0o600, before="as it was")
    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]
    assert replace_file(path, b"ours", 0o600, before="theirs")
    assert path.read_text() == "ours"


def test_an_error_while_writing_names_the_file_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as raised:
        replace_file(path, b"new", 0o600)
    assert raised.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_several_writers_never_disturb_each_other(tmp_path: Path) -> None:
    """The agent and the plugin may write one record at once, each in its own pid namespace."""
    path = tmp_path / ("x" * 255)
    texts = [str(number).encode() * 20_000 for number in range(4)]

    def write(text: bytes) -> None:
        for _ in range(50):
            assert replace_file(path, text, 0o600, sync=False, several_writers=True)
            assert path.read_bytes() in texts

    with ThreadPoolExecutor(len(texts)) as pool:
        list(pool.map(write, texts))
    assert list(tmp_path.iterdir()) == [path]
