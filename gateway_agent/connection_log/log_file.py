"""Write the files of the log: the newest, and older ones with a number after the name."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MODE = 0o600
"""Only for root: the log shows which pod communicates with which destination."""


class LogFile:
    """The newest file, which is rotated before it is too large. Every method raises OSError."""

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        """``keep``: number of older files."""
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._descriptor = -1
        self._size = 0

    def append(self, lines: bytes) -> int:
        """Write all of these lines, or none. Return their number."""
        self._follow()
        if self._size and self._size + len(lines) > self._max_bytes:
            self._rotate()
        try:
            done = os.write(self._descriptor, lines)
        except OSError:
            self.close()
            raise
        if done < len(lines):
            os.ftruncate(self._descriptor, self._size)
            raise OSError(28, os.strerror(28), str(self._path))
        self._size += done
        return lines.count(b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _follow(self) -> None:
        """Open the file, again if another program has renamed it."""
        with contextlib.suppress(FileNotFoundError):
            if self._descriptor >= 0 and os.path.samestat(os.stat(self._path), os.fstat(self._descriptor)):
                return
        self.close()
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._path, flags, MODE)
        os.fchmod(self._descriptor, MODE)
        self._size = os.fstat(self._descriptor).st_size

    def _rotate(self) -> None:
        self.close()
        names = files(self._path, self._keep)
        for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
            with contextlib.suppress(FileNotFoundError):
                os.replace(newer, older)
        if not self._keep:
            self._path.unlink(missing_ok=True)
        self._follow()


def files(path: Path, keep: int) -> list[Path]:
    """Return the paths of all possible files of a log, the newest first."""
    return [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, keep + 1))]
