"""The process of a lease daemon: scheduling, the background, its log."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

LOG_BYTES = 1 << 20
"""Size of the log above which a starting daemon renames the log to ``keeper.log.1``."""
PRIORITY = 10
"""Priority in SCHED_FIFO."""


def boottime() -> int:
    """Return ``CLOCK_BOOTTIME``, nanoseconds, which includes the time in which the machine is suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def real_time() -> str:
    """Request real-time scheduling. Return a problem if the kernel refuses it, otherwise an empty text."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except OSError as error:
        with contextlib.suppress(OSError):
            os.nice(-20)
        return f"no real-time scheduling ({error.strerror}): heartbeats may be late under load"
    return ""


def enter_background(path: Path) -> None:
    """Give up the terminal and the current directory; the output of this process goes to the log at ``path``."""
    # The last lines of the previous daemon must stay readable.
    with contextlib.suppress(OSError):
        if path.stat().st_size > LOG_BYTES:
            os.replace(path, path.with_name(f"{path.name}.1"))
    log_to(path)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.chdir("/")


def log_to(path: Path) -> None:
    """Append the output of this process to a file. Raises OSError."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for target in (1, 2):
        os.dup2(log, target)
    if log > 2:
        os.close(log)


def log(error: Exception, what: str) -> None:
    """Write an error to the log: its traceback, then one line with the time and the reason."""
    # Imported only here: the start of a daemon is part of a failover.
    import traceback

    # A full disk must not end the daemon.
    with contextlib.suppress(OSError):
        traceback.print_exception(error)
    log_line(f"{what}: {type(error).__name__}: {error}")


def log_line(text: str) -> None:
    """Write one line with the time to the log; ignore a log that cannot be written."""
    with contextlib.suppress(OSError):
        print(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}", file=sys.stderr, flush=True)


def prepare_to_stay(run_dir: Path) -> None:
    """Load everything, create the run directory, and let a SIGTERM end the process until an agent has configured it.

    The first process of a pid namespace gets no SIGTERM without a handler for it.
    """
    from .kernel import vip_kernel  # noqa: F401

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


def wait_for_start() -> bool:
    """Load everything, then wait for a line of the agent. Return False if the agent has ended."""
    from .kernel import vip_kernel  # noqa: F401

    return bool(sys.stdin.buffer.readline())
