"""Starts the lease keeper's process, and keeps a spare one at hand: the start of Python is most of a keeper's start,
and until it is over nobody votes on this node.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

from ..lease.ipc import WAIT

KEEPER = "gateway_agent.lease_daemon"


class Spare:
    """One for each run directory. The spare ends with this process: its input does."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._process: Process | None = None

    async def prepare(self) -> None:
        """Has a spare from now on. Raises OSError."""
        if self._process is None or self._process.returncode is not None:
            self._process = await self._spawn(WAIT)

    async def begin(self) -> None:
        """Returns when a new keeper listens; raises OSError, also where another one holds the directory."""
        spare, self._process = self._process, None
        # One that has died in the meantime is as good as none.
        if spare is not None and not await _failure(spare):
            return
        if words := await _failure(await self._spawn()):
            raise OSError(0, f"could not be started: {words}")

    async def close(self) -> None:
        """No spare any more."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _spawn(self, *options: str) -> Process:
        # Without ``site``, which is a fifth of the time.
        command = (sys.executable, "-S", "-m", KEEPER, str(self._run_dir), *options)
        paths = (str(Path(__file__).parents[2]), *sys.path)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        return await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=DEVNULL, stderr=PIPE, env=environment
        )


async def _failure(process: Process) -> str:
    """Lets it begin; why it could not, empty where it listens."""
    _, said = await process.communicate(b"\n")
    last = said.decode(errors="replace").strip().splitlines()[-1:]
    return "" if not process.returncode else " ".join(last) or f"exit code {process.returncode}"
