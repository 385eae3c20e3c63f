"""Store the memory of a voter in a file that outlives the voter's process.

The file is written before each answer with a grant, so the write is part of each failover. It is done in place, into a
file that stays open, which takes microseconds. A new file for each write would take a fraction of a millisecond, and
several milliseconds if the file system is busy with its journal. The file is not synced to disk: after a power cut it
may be an older one, which could break a promise. So the file counts within one boot only.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import msgspec

from ..lease.voting.voter_set import Memory

PAGE = 4096
"""Bytes that the kernel writes at the beginning of a file in whole or not at all, even if the process is killed
meanwhile.
"""


class Stored(msgspec.Struct, frozen=True):
    """The content of the file."""

    boot: str
    memory: Memory


class VoterStateFile:
    """The file, as JSON padded with spaces. Only one process writes it.

    Not written by :func:`cni.files.replace_file`, which creates a new file: this one stays open and is written in
    place.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def load(self) -> Memory | None:
        """Return the memory that a process of this boot has stored; None if there is none that can be read."""
        try:
            stored = msgspec.json.decode(self._path.read_bytes(), type=Stored)
        except (OSError, ValueError, RecursionError):
            return None
        return stored.memory if stored.boot == boot_id() else None

    def store(self, memory: Memory) -> None:
        """Store the memory for the next process.

        Raises :class:`OSError` if that is not possible; then no file is left: with an old memory, the next process
        would vote too early.
        """
        text = msgspec.json.encode(Stored(boot_id(), memory))
        try:
            if len(text) > PAGE or not self._there():
                self._make_anew(text.ljust(PAGE))
            elif os.pwrite(self._descriptor, text.ljust(PAGE), 0) != PAGE:
                raise OSError(None, "written in part")
        except OSError:
            self.close()
            self._path.unlink(missing_ok=True)
            raise

    def close(self) -> None:
        """Close the file; its content stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _there(self) -> bool:
        """Return True if the open file is the one that the next process would find, and is not longer than a page."""
        if self._descriptor < 0:
            return False
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(self._descriptor)) and found.st_size == PAGE

    def _make_anew(self, text: bytes) -> None:
        self.close()
        new = self._path.with_name(f".{self._path.name}")
        self._descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        if os.write(self._descriptor, text) != len(text):
            raise OSError(None, "written in part")
        os.rename(new, self._path)


@functools.cache
def boot_id() -> str:
    """Return the kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
