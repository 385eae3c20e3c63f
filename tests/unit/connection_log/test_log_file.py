"""The files of the log: rotated, moved away by others, on a full disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway_agent.connection_log.log_file import LogFile, files


def test_files_are_rotated_before_they_are_too_large(tmp_path: Path) -> None:
    path = tmp_path / "log" / "connections.log"
    log = LogFile(path, max_bytes=100, keep=2)
    for number in range(8):
        log.append(f"{number:>49}\n".encode())
    log.close()
    kept = [file.read_text().split() for file in files(path, 2)]
    assert kept == [["6", "7"], ["4", "5"], ["2", "3"]]
    assert {file.name for file in path.parent.iterdir()} == {file.name for file in files(path, 2)}
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in path.parent.iterdir())


def test_without_older_files_the_newest_begins_anew(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log", max_bytes=10, keep=0)
    log.append(b"12345678\n")
    log.append(b"abcdefgh\n")
    assert (tmp_path / "log").read_bytes() == b"abcdefgh\n"


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile(path, max_bytes=1000, keep=1)
    log.append(b"one\n")
    os.rename(path, tmp_path / "elsewhere")
    log.append(b"two\n")
    assert path.read_bytes() == b"two\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_an_error_and_the_next_line_is_tried(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log", max_bytes=1000, keep=1)
    log.append(b"one\n")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._descriptor)
    os.close(full)
    (tmp_path / "log").unlink()
    log.append(b"two\n")
    assert (tmp_path / "log").read_bytes() == b"two\n"
