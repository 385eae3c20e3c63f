"""One agent for each network namespace: two would undo each other's rules and routes, whatever their directories are.

The lock is the name of an abstract unix socket. The kernel has one set of these names for each network namespace, and
frees a name when the process that bound it ends. Any local user may bind it first, so only a holder that runs as root,
or as the user of this process, keeps an agent from starting.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
import time

from ..manifests.model import Problem

NAME = b"\0egress-gateway-agent"
VARIABLE = "EGRESS_GATEWAY_LOCK"
"""Descriptor of the lock that a restart in place hands to the next program."""
_CREDENTIALS = struct.Struct("3i")
"""``struct ucred``: pid, uid, gid."""


class NamespaceLock:
    """Holds the lock until the process ends."""

    def __init__(self) -> None:
        """Take the lock, or go on with the one that was handed over.

        Raises OSError if another agent runs in this network namespace.
        """
        self.problems: tuple[Problem, ...] = ()
        """Names another user's process that has bound the name: a second agent would not be noticed."""
        self._socket = _handed_over() or self._bound()
        if self._socket is not None:
            # Connections that nobody accepts would fill the queue, and the next agent could not learn who listens.
            threading.Thread(target=_accept, args=(self._socket,), name="lock", daemon=True).start()

    def hand_over(self) -> None:
        """Let the program that is executed next in this process have the lock."""
        if self._socket is not None:
            self._socket.set_inheritable(True)
            os.environ[VARIABLE] = str(self._socket.fileno())

    def close(self) -> None:
        """Give the lock up."""
        if self._socket is not None:
            self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()

    def _bound(self) -> socket.socket | None:
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            lock.bind(NAME)
            # Whoever connects learns the credentials of the process that listens.
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
    """Return pid (0: not of this pid namespace) and user of the process that has the name; user -1 if it hides."""
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
