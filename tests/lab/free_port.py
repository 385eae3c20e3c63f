"""A TCP port on which a server of a test can listen, after the caller has found it."""

from __future__ import annotations

import contextlib
import secrets
import socket

PORTS = range(16_384, 32_768)
"""Below those that Linux gives to connections by default. A port of a connection is not free for a minute after the
connection's end: nothing can listen at it on all addresses, although a listener at another address can."""


def free_port(host: str = "") -> int:
    """Return a port that is free at an address of this machine, or at all IPv4 addresses."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        port = secrets.choice(PORTS)
        with contextlib.suppress(OSError), socket.create_server((host, port), family=family):
            return port
