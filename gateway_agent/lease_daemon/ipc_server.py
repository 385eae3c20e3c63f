"""Serve ``keeper.sock`` for the agent, for an agent that replaces it, and for operators' tools."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from functools import partial
from pathlib import Path

from cni.files import named

BUFFER = 4 << 20
"""Bytes that may be queued for an agent: some hundred states."""


class Connection:
    """An agent, or an operator's tool."""

    def __init__(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self.peer = peer
        self._rest = b""

    def lines(self) -> list[bytes] | None:
        """Return the complete lines that have arrived; None at the end of the connection."""
        try:
            data = self.peer.recv(1 << 20)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines

    def send(self, line: bytes) -> bool:
        """Send a line.

        Return False if the other end does not keep up: the connection is dropped, and it may connect again.
        """
        try:
            return self.peer.send(line) == len(line)
        except OSError:
            return False


class AgentConnections:
    """All connections. A callback without arguments is registered with ``selector`` for each."""

    def __init__(self, path: Path, selector: selectors.BaseSelector) -> None:
        """Start to listen at ``path``. Raises OSError."""
        self._selector = selector
        self._connections: list[Connection] = []
        self._lines: list[bytes] = []
        self._new = False
        self._path = path
        self._listener = _listen(path)
        self._inode = path.stat().st_ino
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def reachable(self) -> bool:
        """Return True if agents find this socket at its path."""
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    def listen_again(self) -> None:
        """Create the socket again; connections stay. Raises OSError."""
        listener = _listen(self._path)
        self._selector.unregister(self._listener)
        self._listener.close()
        self._listener, self._inode = listener, self._path.stat().st_ino
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def lines(self) -> list[bytes]:
        """Return the last line of each connection since the last call: each line is the whole configuration."""
        lines, self._lines = self._lines, []
        return lines

    def new(self) -> bool:
        """Return True if there is a connection to which no state was sent yet."""
        return self._new

    def broadcast(self, line: bytes) -> None:
        """Send a line to every connection."""
        self._new = False
        for connection in list(self._connections):
            if not connection.send(line):
                self._drop(connection)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            peer, _ = self._listener.accept()
            connection = Connection(peer)
            self._connections.append(connection)
            self._selector.register(peer, selectors.EVENT_READ, partial(self._receive, connection))
            self._new = True

    def _receive(self, connection: Connection) -> None:
        lines = connection.lines()
        if lines is None:
            self._drop(connection)
        else:
            self._lines += lines[-1:]

    def _drop(self, connection: Connection) -> None:
        self._selector.unregister(connection.peer)
        self._connections.remove(connection)
        connection.peer.close()


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        with named(path):
            listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    listener.listen()
    return listener
