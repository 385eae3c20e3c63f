from __future__ import annotations

import os
from pathlib import Path

from gateway_agent.cni_install.conf_dir import configurations


def test_files_that_a_runtime_reads_are_read_in_its_order(tmp_path: Path) -> None:
    for name in ("20-b.conflist", "10-a.conf", "30-c.json", "notes.txt", "10-a.conf.bak"):
        (tmp_path / name).write_text(name)
    (tmp_path / "40-directory.conflist").mkdir()
    files, unreadable = configurations(tmp_path)
    assert list(files.items()) == [(n, n) for n in ("10-a.conf", "20-b.conflist", "30-c.json")]
    assert unreadable == {}


def test_a_directory_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert configurations(tmp_path / "net.d") == ({}, {})


def test_each_file_that_cannot_be_read_has_its_reason_and_hides_no_other(tmp_path: Path) -> None:
    """A runtime opens a pipe, too, and waits for ever; the installer must not."""
    (tmp_path / "good.conf").write_text("{}")
    (tmp_path / "link.conf").symlink_to("good.conf")
    (tmp_path / "broken.conf").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe.conf")
    files, unreadable = configurations(tmp_path)
    assert files == {"good.conf": "{}", "link.conf": "{}"}
    assert unreadable == {
        "broken.conf": "it is a link that leads to no file",
        "pipe.conf": "it is no regular file",
    }
