"""Read the files of the cluster's keys, again after each change. Nothing here blocks: the lease daemon uses it, too."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from ...lease.messages.keys import Key, Keyring

MAX_KEY_FILE_BYTES = 4096
"""Size of a key file."""


class KeyFiles:
    """The key ring of one node. A file that cannot be read leaves its key unchanged."""

    def __init__(self) -> None:
        self.ring: Keyring | None = None
        """The key ring; None until the signing key has been read."""
        self.problem = ""
        """The name of a file that cannot be read, with the reason; empty if all can."""
        self._seen: list[tuple[str, object]] = []
        """The files in order: the signing key can change to another file while no file changes."""
        self._keys: dict[str, Key] = {}

    def follow(self, signing: str, accepted: Sequence[str]) -> bool:
        """Read the files if they or their names have changed. Return True if the key ring has changed.

        ``signing``: file of the signing key. ``accepted``: files of further accepted keys. A missing file of
        ``accepted`` is no key, so removing a file drops its key.
        """
        paths = (signing, *accepted)
        # Taken before the files are read: the next call notices a change during the reading.
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

    def followed(self, signing: str, accepted: Sequence[str]) -> Keyring | None:
        """Return the key ring of these files as they are now, see :meth:`follow`; None without a signing key."""
        self.follow(signing, accepted)
        return self.ring

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
    # O_NONBLOCK: opening a pipe would block.
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
    """Return a value that changes with the content of a file, or the error number if the file is not accessible."""
    try:
        status = os.stat(path)
    except OSError as error:
        return error.errno
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
