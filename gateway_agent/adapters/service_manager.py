"""Report the state of this process to the service manager, and feed its watchdog.

The protocol is one short datagram to a unix socket (``sd_notify(3)``), so no library is used.
Without a service manager, as in a container, nothing is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time

SOCKET = "NOTIFY_SOCKET"
"""Environment variable with the path of the socket; ``@`` begins an abstract name."""
WATCHDOG_USEC, WATCHDOG_PID = "WATCHDOG_USEC", "WATCHDOG_PID"
"""Environment variables with the time-out of the watchdog, microseconds, and the process that must feed it."""
READY, STOPPING = "READY=1", "STOPPING=1"
FEEDS = 3
"""Number of feeds of the watchdog in one time-out."""


def notify(state: str) -> None:
    """Send a state. A failure is ignored: the agent can run without a service manager."""
    path = os.environ.get(SOCKET, "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
        sending.setblocking(False)
        sending.sendto(state.encode(), address)


def reloading() -> None:
    """Report that this process starts again in place; its next :data:`READY` ends that."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


async def feed_watchdog() -> None:
    """Feed the watchdog until cancelled, so that it expires if the event loop hangs."""
    interval_s = _interval_s()
    while interval_s:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)
    await asyncio.Event().wait()


def _interval_s() -> float:
    """Return the seconds between two feeds; 0 if there is no watchdog for this process."""
    text, pid = os.environ.get(WATCHDOG_USEC, ""), os.environ.get(WATCHDOG_PID, "")
    if not text.isdecimal() or pid not in ("", str(os.getpid())):
        return 0.0
    return int(text) / 1e6 / FEEDS
