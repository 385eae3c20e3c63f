"""Allow one agent per network namespace: two would undo each other's rules and routes, even with two run directories.

The lock is the name of an abstract unix socket. Each network namespace has its own set of these names, and the kernel
frees a name when the process that bound it ends. Any local user may bind the name first, so only a process of root, or
of the user of this process, keeps an agent from starting.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ..manifests.model import Problem

NAME = b"\0egress-gateway-agent"
VARIABLE = "EGRESS_GATEWAY_LOCK"
"""Environment variable with the descriptor of the lock that a restart in place passes to the next program."""
_CREDENTIALS = struct.Struct("3i")
"""``struct ucred``: pid, uid, gid."""


class NamespaceLock:
    """The lock, held until the process ends: a new one, or the one passed by :meth:`hand_over`."""

    def __init__(self) -> None:
        """Take the lock. Raises OSError if another agent runs in this network namespace."""
        self.problems: tuple[Problem, ...] = ()
        """Reports a process of another user that has bound the name, so that a second agent would not be noticed."""
        self._socket = _handed_over() or self._bound()
        if self._socket is not None:
            # Connections that are never accepted would fill the queue, and the next agent could not find the holder.
            threading.Thread(target=_accept, args=(self._socket,), name="lock", daemon=True).start()

    def hand_over(self) -> None:
        """Pass the lock to the program that this process executes next."""
        if self._socket is not None:
            self._socket.set_inheritable(True)
            os.environ[VARIABLE] = str(self._socket.fileno())

    def close(self) -> None:
        """Release the lock."""
        if self._socket is not None:
            self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()

    def _bound(self) -> socket.socket | None:
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            lock.bind(NAME)
            # A client that connects can read the credentials of the listening process.
            lock.listen()
            return lock
        except OSError as error:
            lock.close()
            if error.errno != errno.EADDRINUSE:
                raise
        pid, uid = _holder()
        if uid in (0, os.geteuid()):
            where = f"process {pid}" if pid else "a process in another container"
            raise OSError(f"another agent runs in this network namespace: {where}")
        who = f"process {pid} of user {uid}" if uid >= 0 else "a process that does not listen"
        message = f"the name that keeps a second agent from starting is taken by {who}"
        self.problems = (Problem("agent", "", message, "end that process and restart the agent"),)
        return None


def _accept(lock: socket.socket) -> None:
    """Close each connection until the lock is closed."""
    while True:
        try:
            lock.accept()[0].close()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ECONNABORTED, errno.EINTR):
                return
            time.sleep(1.0)


def _handed_over() -> socket.socket | None:
    number = os.environ.pop(VARIABLE, "")
    if not number.isdecimal():
        return None
    try:
        lock = socket.socket(fileno=int(number))
        if lock.getsockname() == NAME:
            lock.set_inheritable(False)
            return lock
        lock.detach()
    except OSError:
        pass
    return None


def _holder() -> tuple[int, int]:
    """Return the pid and user id of the process that has bound the name.

    The pid is 0 if the process is in another pid namespace. The user is -1 if the process does not listen.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(1.0)
        try:
            asking.connect(NAME)
            pid, uid, _ = _CREDENTIALS.unpack(
                asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
        except OSError:
            return 0, -1
    return pid, uid


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock the run directory: two agents on one node would undo each other's work. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise OSError(f"another agent runs: it holds {path}") from None
    try:
        yield
    finally:
        os.close(descriptor)
