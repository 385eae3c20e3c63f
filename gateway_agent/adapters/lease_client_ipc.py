"""The agent's end of the lease keeper: starts it or finds it running, tells it what to do, hears what it says."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from ..lease.ipc import LOG, SOCKET, KeeperConfig, KeeperState, OwnKeys
from .standby_daemon import Spare

KEEPALIVE_S = 1.0
"""Seconds between two configurations, changed or not."""
STANDBY_POLL_S = 3.0
"""Seconds between two looks whether the spare keeper is there: it loads when the start of this one is over."""
POLL_INTERVAL_S = 0.1
"""Seconds between two looks for a keeper that somebody else starts."""
NOT_LISTENING = (FileNotFoundError, ConnectionRefusedError)
LINE_LIMIT = 16 << 20
LOG_READ = 1 << 20
"""Bytes of the keeper's log that are read for its last line."""
RECENT_S = 600.0
"""Seconds in which the end of a keeper is a problem that status shows."""
STOP_TIMEOUT_S = 4.0
"""Seconds that a stopping keeper gets; it gives its successors two."""
log = logging.getLogger(__name__)


class KeeperClient:
    """One for each run directory. The keeper may be older than this process, and may outlive it."""

    def __init__(self, run_dir: Path, patience: float = 0.0) -> None:
        """``patience``: seconds in which somebody else may start the first keeper."""
        self._patience = patience
        self._run_dir = run_dir
        self._config: KeeperConfig | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._gone = asyncio.Event()
        self._spare = Spare(run_dir)
        self._log_bytes = 0
        self._failure: tuple[str, float] = ("", 0.0)

    @property
    def failure(self) -> str:
        """Return why the last keeper ended by itself, if that was within :data:`RECENT_S`; else an empty text."""
        words, at = self._failure
        return words if words and time.monotonic() < at + RECENT_S else ""

    def send(self, config: KeeperConfig) -> None:
        """What counts from now on; told again to a keeper that is started anew."""
        if config != self._config:
            self._config = config
            self._tell()

    async def states(self) -> AsyncIterator[KeeperState]:
        """Each state that the keeper tells. Starts it where none answers. Ends with its task, or after a stop."""
        tasks = [asyncio.create_task(part()) for part in (self._give_signs_of_life, self._keep_a_spare)]
        try:
            while not (self._config and self._config.stopping):
                try:
                    reader = await self._connect()
                except OSError as error:
                    log.error("lease keeper: %s", error)
                    await asyncio.sleep(KEEPALIVE_S)
                    continue
                self._tell()
                with contextlib.suppress(OSError, ValueError):
                    while line := await reader.readline():
                        yield msgspec.json.decode(line, type=KeeperState)
                self._close()
                if not (self._config and self._config.stopping):
                    words = self._last_words()
                    self._failure = words, time.monotonic()
                    log.warning("the lease keeper is gone: %s", words)
            self._gone.set()
            # What follows is the end of the process; a part that ends by itself would look like a failure.
            await asyncio.Event().wait()
        finally:
            for task in tasks:
                task.cancel()
            self._close()
            await self._spare.close()

    async def keys(self) -> OwnKeys | None:
        """Return by which keys the nodes talk, as of now; None if the keeper's version does not know it.

        Raises OSError, TimeoutError among them, and ValueError.
        """
        async with asyncio.timeout(STOP_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(str(self._run_dir / SOCKET), limit=LINE_LIMIT)
            try:
                return msgspec.json.decode(await reader.readline(), type=KeeperState).keys
            finally:
                writer.close()

    async def ended(self) -> None:
        """Waits until the keeper, told to stop, has handed everything over; not for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._gone.wait()

    async def _give_signs_of_life(self) -> None:
        while True:
            await asyncio.sleep(KEEPALIVE_S)
            self._tell()

    async def _keep_a_spare(self) -> None:
        while True:
            await asyncio.sleep(STANDBY_POLL_S)
            if self._writer is not None:
                try:
                    await self._spare.prepare()
                except OSError as error:
                    log.error("spare lease keeper: %s", error)

    def _tell(self) -> None:
        if self._config is not None and self._writer is not None:
            self._writer.write(msgspec.json.encode(self._config) + b"\n")

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _connect(self) -> asyncio.StreamReader:
        try:
            return await self._found()
        except NOT_LISTENING:
            try:
                await self._spare.begin()
            except OSError:
                # Perhaps another one was quicker to hold the directory.
                with contextlib.suppress(*NOT_LISTENING):
                    return await self._open()
                raise
            return await self._open()

    async def _found(self) -> asyncio.StreamReader:
        patience, self._patience = self._patience, 0.0
        now = asyncio.get_running_loop().time
        deadline = now() + patience
        while True:
            try:
                return await self._open()
            except NOT_LISTENING:
                if now() >= deadline:
                    raise
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _open(self) -> asyncio.StreamReader:
        path = str(self._run_dir / SOCKET)
        reader, self._writer = await asyncio.open_unix_connection(path, limit=LINE_LIMIT)
        with contextlib.suppress(OSError):
            self._log_bytes = (self._run_dir / LOG).stat().st_size
        return reader

    def _last_words(self) -> str:
        """Return the last line that the keeper has logged since this client connected to it."""
        with contextlib.suppress(OSError), (self._run_dir / LOG).open("rb") as file:
            file.seek(self._log_bytes)
            lines = file.read(LOG_READ).decode(errors="replace").split("\n")
            if said := [line for line in lines if line.strip()]:
                return said[-1]
        return "it left no reason (killed, or out of memory)"
