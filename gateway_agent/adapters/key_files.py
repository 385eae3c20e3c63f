"""The files of the cluster's keys, read anew when they change. Nothing here waits: the lease keeper reads them too."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from ..lease.messages.keys import Key, Keyring

MAX_KEY_FILE_BYTES = 4096
"""Bytes of a key file."""


class KeyFiles:
    """The key ring of one node. A file that cannot be read leaves its key as it was."""

    def __init__(self) -> None:
        self.ring: Keyring | None = None
        """None until the key to sign with has been read."""
        self.problem = ""
        """The file that cannot be read, and why."""
        self._seen: list[tuple[str, object]] = []
        """The files in order: which one is signed with can change while none of them does."""
        self._keys: dict[str, Key] = {}

    def follow(self, signing: str, accepted: Sequence[str]) -> bool:
        """Read the files if they or their names have changed; return whether there is another key ring now.

        A file of ``accepted`` that is missing is no key: so a key can be dropped by removing its file.
        """
        paths = (signing, *accepted)
        # Before the files are read: a change meanwhile is found with the next call.
        seen = [(path, _identity(path)) for path in paths]
        if seen == self._seen:
            return False
        self._seen, self.problem = seen, ""
        self._keys = {
            path: key for path in reversed(paths) if (key := self._read(path, kept=path == signing))
        }
        first = self._keys.get(signing)
        if first is None:
            return False
        others = (self._keys[path] for path in accepted if path in self._keys)
        ring = Keyring(first, tuple(dict.fromkeys(key for key in others if key != first)))
        changed, self.ring = ring != self.ring, ring
        return changed

    def _read(self, path: str, kept: bool) -> Key | None:
        try:
            return read(path)
        except FileNotFoundError:
            self.problem = f"{path} is missing"
            return self._keys.get(path) if kept else None
        except OSError as error:
            self.problem = f"{path}: {error.strerror}"
        except ValueError as error:
            self.problem = str(error)
        return self._keys.get(path)


def read(path: str) -> Key:
    """Return the key in a file. Raises OSError and ValueError, both with the file's name."""
    # A pipe has no end to wait for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path} is no regular file")
        content = os.read(descriptor, MAX_KEY_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_KEY_FILE_BYTES:
        raise ValueError(f"{path} has more than {MAX_KEY_FILE_BYTES} bytes: it is no key")
    try:
        return Key.parse(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _identity(path: str) -> object:
    """Return what changes with the content of a file, or why it cannot be had."""
    try:
        status = os.stat(path)
    except OSError as error:
        return error.errno
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
