"""The journal of systemd as the place of the log, by its native protocol.

One datagram for each line: fields as ``NAME=value`` with a line feed behind each
(https://systemd.io/JOURNAL_NATIVE_PROTOCOL/). A line of the log has no line feed in it.
"""

from __future__ import annotations

import socket
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
IDENTIFIER = "egress-gateway-connections"
FIELDS = f"PRIORITY=6\nSYSLOG_IDENTIFIER={IDENTIFIER}\nMESSAGE=".encode()
TIMEOUT_S = 1.0
"""Seconds that a full socket may hold up a line."""


class Journal:
    """Sends lines to the journal, and connects again after it was away."""

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def append(self, lines: bytes) -> int:
        """Send whole lines. Return how many the journal has taken, if not all. Raises OSError if it takes none."""
        done = 0
        for line in lines.splitlines():
            try:
                self._send(FIELDS + line + b"\n")
            except OSError:
                self.close()
                if not done:
                    raise
                break
            done += 1
        return done

    def _send(self, datagram: bytes) -> None:
        """Send one datagram. A journal that was started again has another socket at the path. Raises OSError."""
        if self._socket is not None:
            try:
                self._socket.send(datagram)
                return
            except (ConnectionRefusedError, ConnectionResetError, FileNotFoundError):
                self.close()
        found = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket = found
        found.settimeout(TIMEOUT_S)
        found.connect(str(self._path))
        found.send(datagram)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
