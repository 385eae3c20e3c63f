"""Start the lease daemon's process, and keep a standby process loaded.

Starting Python takes most of a daemon's start, and until the start is over this node does not vote.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

from ...lease.ipc import WAIT

MODULE = "gateway_agent.lease_daemon"


class StandbyDaemon:
    """The starter of daemons for one run directory.

    The standby ends with this process, which closes its standard input.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._process: Process | None = None

    async def prepare(self) -> None:
        """Start a standby process unless there is one. Raises OSError."""
        if self._process is None or self._process.returncode is not None:
            self._process = await self._spawn(WAIT)

    async def begin(self) -> None:
        """Start a daemon and return when it listens.

        Raises OSError, also if another daemon has locked the directory.
        """
        standby, self._process = self._process, None
        # A standby that has died in the meantime counts as none.
        if standby is not None and not await _failure(standby):
            return
        if message := await _failure(await self._spawn()):
            raise OSError(f"it could not be started: {message}")

    async def close(self) -> None:
        """End the standby process."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _spawn(self, *options: str) -> Process:
        # -S: importing ``site`` would take a fifth of the start.
        command = (sys.executable, "-S", "-m", MODULE, str(self._run_dir), *options)
        paths = (str(Path(__file__).parents[3]), *sys.path)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        return await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=DEVNULL, stderr=PIPE, env=environment
        )


async def _failure(process: Process) -> str:
    """Let a standby take over. Return why it could not; empty if it listens."""
    _, said = await process.communicate(b"\n")
    last = said.decode(errors="replace").strip().splitlines()[-1:]
    return "" if not process.returncode else " ".join(last) or f"exit code {process.returncode}"
