"""Connect the agent to the lease daemon: find or start the daemon, send configurations, receive states."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from ...lease.ipc import LOG, SOCKET, UNCONFIGURED, KeeperConfig, KeeperState, OwnKeys
from .standby_daemon import StandbyDaemon

KEEPALIVE_S = 1.0
"""Seconds between two configurations, changed or not."""
STANDBY_POLL_S = 3.0
"""Seconds between two checks of the standby daemon. It loads after the start of the active one is over."""
POLL_INTERVAL_S = 0.1
"""Seconds between two attempts to connect to a daemon that another program starts."""
NOT_LISTENING = (FileNotFoundError, ConnectionRefusedError)
MAX_LINE_BYTES = 16 << 20
"""Size of one state of the daemon."""
MAX_LOG_BYTES = 1 << 20
"""Bytes of the daemon's log that are read for its last line."""
RECENT_S = 600.0
"""Seconds for which status shows the unexpected end of a daemon as a problem."""
STOP_TIMEOUT_S = 4.0
"""Seconds that a stopping daemon gets. It gives its successors two."""
log = logging.getLogger(__name__)


class LeaseDaemonClient:
    """Connection to the lease daemon of one run directory. The daemon may be older than this process, and outlive it.

    ``start_timeout``: seconds in which another program may start a daemon, before this client does: the first one, and
    the next one after each loss.
    """

    def __init__(self, run_dir: Path, start_timeout: float = 0.0) -> None:
        self._start_timeout = start_timeout
        self._run_dir = run_dir
        self._config: KeeperConfig | None = None
        self._line = b""
        """The encoded configuration, which is also sent periodically as a sign of life."""
        self._writer: asyncio.StreamWriter | None = None
        self._gone = asyncio.Event()
        self._standby = StandbyDaemon(run_dir)
        self._log_bytes = 0
        self._failure: tuple[str, float] = ("", 0.0)
        self._refused = ""
        """The reason why no daemon could be started or connected to at the last attempt."""
        self._unconfigured = ""
        """The reason why the running daemon has not been able to apply any configuration."""

    @property
    def failure(self) -> str:
        """Return why no daemon serves, or why the last one ended within :data:`RECENT_S`; else an empty text."""
        message, at = self._failure
        if self._unconfigured:
            return f"the lease daemon runs and does not serve: {self._unconfigured}"
        if self._writer is not None:
            recent = message and time.monotonic() < at + RECENT_S
            return (
                f"the lease daemon ended by itself, another one has taken its place: {message}"
                if recent
                else ""
            )
        if self._refused:
            return f"no lease daemon runs: {self._refused}"
        return (
            f"the lease daemon ended by itself, and none has taken its place yet: {message}"
            if message
            else ""
        )

    @property
    def _stopping(self) -> bool:
        return self._config is not None and self._config.stopping

    def send(self, config: KeeperConfig) -> None:
        """Set the configuration. A daemon that is started later gets it as well."""
        if config != self._config:
            self._config = config
            self._line = msgspec.json.encode(config) + b"\n"
            self._write()

    async def states(self) -> AsyncIterator[KeeperState]:
        """Yield each state that the daemon reports, and start a daemon if none answers. Ends with its task.

        After a configuration with ``stopping`` no daemon is started, and the iteration blocks until it is cancelled.
        """
        tasks = [asyncio.create_task(part()) for part in (self._keep_alive, self._keep_a_standby)]
        try:
            while not self._stopping:
                try:
                    reader = await self._connect()
                except OSError as error:
                    log.error("lease daemon: %s", error)
                    self._refused = str(error)
                    await asyncio.sleep(KEEPALIVE_S)
                    continue
                self._refused = ""
                self._write()
                with contextlib.suppress(OSError, ValueError):
                    while line := await reader.readline():
                        state = msgspec.json.decode(line, type=KeeperState)
                        unconfigured = state.incarnation == UNCONFIGURED
                        self._unconfigured = "; ".join(state.problems) if unconfigured else ""
                        # This daemon knows no egress IPs: the last state of the previous daemon stays in force.
                        if not unconfigured:
                            yield state
                self._close()
                self._unconfigured = ""
                if not self._stopping:
                    message = self._last_log_line()
                    self._failure = message, time.monotonic()
                    log.warning("the lease daemon has ended: %s", message)
            self._gone.set()
            # The process is about to end. A task that returned before it is cancelled would count as failed.
            await asyncio.Event().wait()
        finally:
            for task in tasks:
                task.cancel()
            self._close()
            await self._standby.close()

    async def keys(self) -> OwnKeys | None:
        """Return the keys that nodes use now; None if the daemon's version does not report them.

        Raises OSError (including TimeoutError) and ValueError.
        """
        async with asyncio.timeout(STOP_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(
                str(self._run_dir / SOCKET), limit=MAX_LINE_BYTES
            )
            try:
                return msgspec.json.decode(await reader.readline(), type=KeeperState).keys
            finally:
                writer.close()

    async def ended(self) -> None:
        """Wait until a stopping daemon has handed everything over, at most :data:`STOP_TIMEOUT_S`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._gone.wait()

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(KEEPALIVE_S)
            self._write()

    async def _keep_a_standby(self) -> None:
        while True:
            await asyncio.sleep(STANDBY_POLL_S)
            if self._writer is not None:
                try:
                    await self._standby.prepare()
                except OSError as error:
                    log.error("standby lease daemon: %s", error)

    def _write(self) -> None:
        if self._line and self._writer is not None:
            self._writer.write(self._line)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _connect(self) -> asyncio.StreamReader:
        try:
            return await self._found()
        except NOT_LISTENING:
            try:
                await self._standby.begin()
            except OSError:
                # Another daemon may have taken the lock of the directory first.
                with contextlib.suppress(*NOT_LISTENING):
                    return await self._open()
                raise
            return await self._open()

    async def _found(self) -> asyncio.StreamReader:
        """Return the connection to a running daemon, or to one that another program starts in time."""
        now = asyncio.get_running_loop().time
        deadline = now() + self._start_timeout
        while True:
            try:
                return await self._open()
            except NOT_LISTENING:
                if now() >= deadline or self._stopping:
                    raise
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _open(self) -> asyncio.StreamReader:
        path = str(self._run_dir / SOCKET)
        reader, self._writer = await asyncio.open_unix_connection(path, limit=MAX_LINE_BYTES)
        with contextlib.suppress(OSError):
            self._log_bytes = (self._run_dir / LOG).stat().st_size
        return reader

    def _last_log_line(self) -> str:
        """Return the last line that the daemon has logged since this client connected to it."""
        with contextlib.suppress(OSError), (self._run_dir / LOG).open("rb") as file:
            file.seek(self._log_bytes)
            lines = file.read(MAX_LOG_BYTES).decode(errors="replace").split("\n")
            if said := [line for line in lines if line.strip()]:
                return said[-1]
        return "it gave no reason (killed, or out of memory)"
