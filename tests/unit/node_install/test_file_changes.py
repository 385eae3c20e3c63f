"""Changes of files, and their undoing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway_agent.node_install.file_changes import FileChanges, remove


def snapshot(root: Path) -> dict[str, object]:
    """Return all paths with content, mode and target."""
    return {
        str(path.relative_to(root)): os.readlink(path)
        if path.is_symlink()
        else (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(root.rglob("*"))
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "agent.yaml").write_text("old")
    (tmp_path / "etc" / "agent.yaml").chmod(0o600)
    (tmp_path / "current").symlink_to("versions/old")
    return tmp_path


def change(changes: FileChanges, root: Path) -> list[bool]:
    return [
        changes.put(root / "etc" / "agent.yaml", b"new", 0o644),
        changes.put(root / "etc" / "new" / "deep" / "file", b"new", 0o600),
        changes.put(root / "etc" / "agent.yaml", b"newer", 0o644),
        changes.link(root / "current", "versions/new"),
        changes.link(root / "bin" / "egressctl", "../current/bin/egressctl"),
    ]


def test_everything_is_undone(root: Path) -> None:
    before = snapshot(root)
    changes = FileChanges()
    assert all(change(changes, root))
    assert (root / "etc" / "agent.yaml").read_bytes() == b"newer"
    assert (root / "etc" / "new" / "deep" / "file").stat().st_mode & 0o777 == 0o600
    assert os.readlink(root / "current") == "versions/new"
    changes.undo()
    assert snapshot(root) == before


def test_what_is_there_already_is_no_change(root: Path) -> None:
    change(FileChanges(), root)
    after = snapshot(root)
    changes = FileChanges()
    assert not changes.put(root / "etc" / "agent.yaml", b"newer", 0o644)
    assert not changes.link(root / "current", "versions/new")
    changes.undo()
    assert snapshot(root) == after


def test_a_link_that_becomes_a_file_is_a_link_again(root: Path) -> None:
    before = snapshot(root)
    changes = FileChanges()
    assert changes.put(root / "current", b"a file", 0o644)
    assert not (root / "current").is_symlink()
    changes.undo()
    assert snapshot(root) == before


def test_a_directory_that_got_other_files_stays(root: Path) -> None:
    changes = FileChanges()
    changes.make_directory(root / "made" / "deep")
    (root / "made" / "of another program").touch()
    changes.undo()
    assert [path.name for path in (root / "made").iterdir()] == ["of another program"]


def test_remove_takes_files_links_and_directories(root: Path) -> None:
    assert remove(root / "current") and remove(root / "etc")
    assert not remove(root / "etc")
    assert list(root.iterdir()) == []
