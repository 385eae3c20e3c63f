"""Change files so that all changes can be undone together."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from cni.files import replace_file


@dataclass(frozen=True)
class Before:
    """The state of a path before its change."""

    path: Path
    content: bytes | None = None
    """Content of a file; None: there was no file."""
    mode: int = 0
    target: str = ""
    """Target of a symbolic link; empty: there was no link."""


class FileChanges:
    """The changed files, links and directories. Each change is atomic."""

    def __init__(self) -> None:
        self._before: list[Before] = []
        self.directories: list[Path] = []
        """Directories that were created, the parents first."""

    def put(self, path: Path, content: bytes, mode: int) -> bool:
        """Write a file and the directories that it needs. Return True if it was changed. Raises OSError."""
        before = _state(path)
        if before == Before(path, content, mode):
            return False
        self.make_directory(path.parent)
        self._before.append(before)
        if before.target:
            path.unlink()
        return replace_file(path, content, mode)

    def link(self, path: Path, target: str) -> bool:
        """Create or replace a symbolic link. Return True if it was changed. Raises OSError."""
        before = _state(path)
        if before.target == target:
            return False
        self.make_directory(path.parent)
        self._before.append(before)
        _link(path, target)
        return True

    def make_directory(self, path: Path, mode: int = 0o755) -> None:
        """Create a directory and its parents if they are missing. Raises OSError."""
        missing = [each for each in (path, *path.parents) if not each.exists()]
        for each in reversed(missing):
            each.mkdir(mode=mode)
            self.directories.append(each)

    def undo(self) -> None:
        """Restore the earlier state of all paths, the last change first. Raises OSError."""
        while self._before:
            _restore(self._before.pop())
        while self.directories:
            directory = self.directories.pop()
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()


def _state(path: Path) -> Before:
    if path.is_symlink():
        return Before(path, target=os.readlink(path))
    if not path.exists():
        return Before(path)
    return Before(path, path.read_bytes(), path.stat().st_mode & 0o7777)


def _restore(before: Before) -> None:
    path = before.path
    if before.target:
        _link(path, before.target)
    elif before.content is not None:
        if path.is_symlink():
            path.unlink()
        replace_file(path, before.content, before.mode)
    else:
        path.unlink(missing_ok=True)


def _link(path: Path, target: str) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target)
    os.replace(draft, path)


def remove(path: Path) -> bool:
    """Remove a file, a link, or a directory with its content. Return True if there was one. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        return True
    there = os.path.lexists(path)
    path.unlink(missing_ok=True)
    return there
