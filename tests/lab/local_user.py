"""What a local user without rights can do on a machine: no capability, neither root's files nor root's sockets."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .namespace import Namespace

T = TypeVar("T")
NOBODY = 65534
_SETRESUID = {"x86_64": 117, "aarch64": 147}[platform.machine()]
_libc = ctypes.CDLL(None, use_errno=True)


def as_local_user(machine: Namespace, action: Callable[[], T]) -> T:
    """Return the result of ``action``, run inside the machine by a thread of the user ``nobody``.

    The thread alone changes its user, and ends with the action: the C library's function would change all threads.
    """

    def drop() -> T:
        if _libc.syscall(_SETRESUID, NOBODY, NOBODY, NOBODY):
            raise OSError(ctypes.get_errno(), "cannot change the user of a thread")
        assert "CapEff:\t0000000000000000\n" in Path("/proc/thread-self/status").read_text()
        return action()

    return machine.inside(drop)
