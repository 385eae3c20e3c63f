"""One lease daemon for each run directory, also while another program empties it.

A lock on a file goes with the file: who makes it anew gets another lock. So a daemon holds a name as well, that of an
abstract unix socket with the directory's path in it, which the kernel frees when the process ends. Any local user may
bind the name first: only a holder that runs as root, or as the user of this process, counts.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import selectors
import socket
import struct
import time
from pathlib import Path

from cni.files import named

NAME = b"\0egress-gateway-keeper-"
PID_WIDTH = 10
"""Width of the process id in the file: it is written over the last one."""
POLL_INTERVAL_S = 0.1
"""Seconds between two looks whether the name is free."""
TRIES = 3
"""Looks at a name whose holder does not answer, until it counts as one that hides."""
CLOEXEC_NONBLOCK = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
_CREDENTIALS = struct.Struct("3i")
"""``struct ucred``: pid, uid, gid."""


class Taken(Exception):
    """Another daemon runs."""


class DaemonLock:
    """Held until the process ends, and by children that are forked."""

    def __init__(self, path: Path, wait: bool) -> None:
        """Take the lock; ``wait`` until it is free. Raises :class:`Taken` and OSError."""
        self._path = path
        self._name = self._take_name(wait)
        self._file = _open(path)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise Taken from None

    def write(self) -> None:
        """Write the id of this process into the file. Raises OSError: the lock is held all the same."""
        with named(self._path):
            os.pwrite(self._file, f"{os.getpid():<{PID_WIDTH}}\n".encode(), 0)

    def answer(self, selector: selectors.BaseSelector) -> None:
        """From now on, let those that ask who has the name learn it."""
        name = self._name
        if name is not None:
            selector.register(name, selectors.EVENT_READ, lambda: _dismiss(name))

    def restore(self) -> None:
        """Lock the file anew if another program has removed it. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self._path), os.fstat(self._file)):
                return
        file = _open(self._path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # A daemon that is about to find that the name is taken.
            os.close(file)
            raise
        os.close(self._file)
        self._file = file

    def _take_name(self, wait: bool) -> socket.socket | None:
        """Return what holds the name; None if a program has it that does not count."""
        name = NAME + hashlib.blake2b(bytes(self._path.absolute()), digest_size=16).hexdigest().encode()
        hidden = 0
        while True:
            try:
                return _bound(name)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            uid = _holder(name)
            # One that does not answer may have ended in between, or be about to listen.
            hidden += uid < 0
            if (uid >= 0 and uid not in (0, os.geteuid())) or hidden >= TRIES:
                return None
            if uid >= 0 and not wait:
                raise Taken
            time.sleep(POLL_INTERVAL_S)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _bound(name: bytes) -> socket.socket:
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | CLOEXEC_NONBLOCK)
    try:
        lock.bind(name)
        # Whoever connects learns the credentials of the process that listens.
        lock.listen()
    except OSError:
        lock.close()
        raise
    return lock


def _dismiss(name: socket.socket) -> None:
    with contextlib.suppress(OSError):
        name.accept()[0].close()


def _holder(name: bytes) -> int:
    """Return the user of the process that has the name; -1 if that does not answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | CLOEXEC_NONBLOCK) as asking:
        try:
            asking.connect(name)
            _, uid, _ = _CREDENTIALS.unpack(
                asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
        except OSError:
            return -1
    return int(uid)
