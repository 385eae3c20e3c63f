"""The journal of systemd as the place of the log, by its native protocol.

One datagram for each line: fields as ``NAME=value`` with a line feed behind each
(https://systemd.io/JOURNAL_NATIVE_PROTOCOL/). A line of the log has no line feed in it. The journal has an index of all
fields, so both ends of a connection are fields of their own: a search for one reads no other entries.
"""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from . import lines, search
from .sightings import Query, Sighting

SOCKET = Path("/run/systemd/journal/socket")
IDENTIFIER = "egress-gateway-connections"
SHOWN, INSIDE = "EGRESS_GATEWAY_SHOWN", "EGRESS_GATEWAY_INSIDE"
"""Fields with an address and port outside, and inside the tunnel."""
TIMEOUT_S = 1.0
"""Seconds that a full socket may hold up a line."""
SEARCH_TIMEOUT_S = 3.0
SEARCH = ("journalctl", "--quiet", "--no-pager", "--output=cat", f"--lines={search.MAX_LINES}")


def find(query: Query) -> list[Sighting]:
    """Return the sightings of this machine's journal that a question is about. Blocks. Raises OSError."""
    field, (address, port) = (INSIDE if query.inside else SHOWN), query.end
    # Any user can write to the journal, but the user of an entry is the journal's own finding.
    asked = (*SEARCH, f"SYSLOG_IDENTIFIER={IDENTIFIER}", "_UID=0", f"{field}={address} {port}")
    try:
        done = subprocess.run(asked, capture_output=True, check=False, timeout=SEARCH_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(0, f"journalctl does not end in {SEARCH_TIMEOUT_S:.0f} s") from error
    if done.returncode and done.stderr:
        raise OSError(0, f"journalctl: {done.stderr.decode(errors='replace').strip()}")
    return list(search.seen(query, done.stdout.splitlines()))


class Journal:
    """Sends lines to the journal, and connects again after it was away."""

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def append(self, text: bytes) -> int:
        """Send whole lines. Return how many the journal has taken, if not all. Raises OSError if it takes none."""
        done = 0
        for line in text.splitlines():
            try:
                self._send(_entry(line))
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


def _entry(line: bytes) -> bytes:
    """Return the fields of a line."""
    shown, inside = lines.ends(line)
    ends = b"".join(
        f"{name}=".encode() + end + b"\n" for name, end in ((SHOWN, shown), (INSIDE, inside)) if end
    )
    return f"PRIORITY=6\nSYSLOG_IDENTIFIER={IDENTIFIER}\n".encode() + ends + b"MESSAGE=" + line + b"\n"
