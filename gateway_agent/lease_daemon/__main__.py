"""The lease daemon's program: ``python -m gateway_agent.lease_daemon RUN_DIR``.

The agent starts the daemon, or the program that runs both (``--stay``). The daemon outlives the agent for a while, so a
restart or a crash of the agent moves no egress IP. The daemon itself sets the tunnels to a new master, so no failover
waits for the agent.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
from pathlib import Path

from ..lease.ipc import LOCK, LOG, SOCKET, STAY, WAIT
from .daemon import LeaseDaemon
from .daemon_lock import DaemonLock, Taken
from .ipc_server import AgentConnections
from .process import enter_background, log, log_line, log_to, prepare_to_stay, wait_for_start

EXIT_BUSY = 3
"""Exit code if another daemon holds the run directory."""
ENDED = "the lease daemon ended"


def main() -> None:
    """Lock the run directory, listen, and only then go into the background: the agent can connect when this returns."""
    run_dir, stays = Path(sys.argv[1]), STAY in sys.argv[2:]
    if WAIT in sys.argv[2:] and not wait_for_start():
        return
    if stays:
        prepare_to_stay(run_dir)
    try:
        lock = DaemonLock(run_dir / LOCK, wait=stays)
    except Taken:
        sys.exit(EXIT_BUSY)
    # select(2) waits with microsecond resolution; epoll rounds up to milliseconds, which would prolong each failover.
    selector = selectors.SelectSelector()
    agents = AgentConnections(run_dir / SOCKET, selector)
    if not stays:
        if os.fork():
            os._exit(0)
        os.setsid()
    if not stays:
        enter_background(run_dir / LOG)
    status = 0
    try:
        LeaseDaemon(run_dir, agents, selector, lock, stays).run()
    except Exception as error:
        log(error, ENDED)
        if stays:
            # The agent reads the reason from the log; only the parent process has this process's output.
            with contextlib.suppress(OSError):
                log_to(run_dir / LOG)
                log_line(f"{ENDED}: {type(error).__name__}: {error}")
        status = 1
    (run_dir / SOCKET).unlink(missing_ok=True)
    os._exit(status)


if __name__ == "__main__":
    main()
