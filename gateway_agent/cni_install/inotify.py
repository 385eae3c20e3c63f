"""Wait for changes in directories by inotify(7), with a delay below a millisecond.

A runtime reads a changed configuration at once, and pods that start by it start without our entry. ``watchfiles``
polls: for a delay of milliseconds it would have to poll hundreds of times each second.
"""

from __future__ import annotations

import ctypes
import os
import select
from collections.abc import Iterable
from pathlib import Path

_MASK = 0x2 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800 | 0x4
"""<sys/inotify.h>: modify, close after writing, moved from and to, create, delete, delete and move of the directory
itself, attributes."""
_BUFFER_BYTES = 1 << 16
_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """A watch of directories until :meth:`close`. Raises OSError if the kernel's limit of watches is reached."""

    def __init__(self, directories: Iterable[Path]) -> None:
        self._descriptor = _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        try:
            for path in directories:
                _checked(_libc.inotify_add_watch(self._descriptor, os.fsencode(path), _MASK))
        except OSError:
            self.close()
            raise

    def wait(self, seconds: float) -> bool:
        """Wait for a change. Return False if there was none in this time. Raises OSError."""
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return False
        os.read(self._descriptor, _BUFFER_BYTES)
        return True

    def close(self) -> None:
        """End the watch."""
        os.close(self._descriptor)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
