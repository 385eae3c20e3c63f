"""Ensure one lease daemon for each run directory, even while another program empties the directory.

A lock on a file ends with the file: a process that creates the file again gets another lock. So a daemon holds a name
as well: an abstract unix socket with the directory's path in its name, which the kernel frees when the process ends.
Any local user may bind the name first, so only a holder that runs as root, or as the user of this process, counts.
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
"""Width of the process id in the file: each id overwrites the last one."""
POLL_INTERVAL_S = 0.1
"""Seconds between two attempts to take the name."""
TRIES = 3
"""Number of attempts to reach the holder of the name before a holder that does not answer is ignored."""
CLOEXEC_NONBLOCK = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
_CREDENTIALS = struct.Struct("3i")
"""``struct ucred``: pid, uid, gid."""


class Taken(Exception):
    """Another daemon holds the lock."""


class DaemonLock:
    """The lock. The process holds it until its end, and so do forked children."""

    def __init__(self, path: Path, wait: bool) -> None:
        """Take the lock; with ``wait``, block until it is free. Raises :class:`Taken` and OSError."""
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
        """Answer, from now on, programs that ask for the holder of the name."""
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
            # Another daemon has the lock and is about to find that the name is taken.
            os.close(file)
            raise
        os.close(self._file)
        self._file = file

    def _take_name(self, wait: bool) -> socket.socket | None:
        """Return the socket that holds the name; None if a program has the name that does not count."""
        name = NAME + hashlib.blake2b(bytes(self._path.absolute()), digest_size=16).hexdigest().encode()
        hidden = 0
        while True:
            try:
                return _bound(name)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            uid = _holder(name)
            # A holder that does not answer may have ended in between, or be about to listen.
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
    """Return the user id of the process that holds the name; -1 if the process does not answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | CLOEXEC_NONBLOCK) as asking:
        try:
            asking.connect(name)
            _, uid, _ = _CREDENTIALS.unpack(
                asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
        except OSError:
            return -1
    return int(uid)
