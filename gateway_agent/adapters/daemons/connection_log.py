"""Run the process that writes the connection log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

from ...config import AgentConfig
from ...connection_log import report
from ...connection_log.report import Report
from ...manifests.model import Problem

MODULE = "gateway_agent.connection_log"
RESTART_S = 2.0
"""Seconds from the end of a process to the next one."""
END_S = 3.0
"""Seconds for a stopping process to write the lines of events that it has read."""
log = logging.getLogger(__name__)


class ConnectionLog:
    """The supervisor of the process, of which one runs at a time; none if the configuration has no log."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._trouble = ""

    @property
    def report(self) -> Report | None:
        """Return the counters of the process; None if there is no log."""
        return report.read(self._config.run_dir) if self._config.connection_log else None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return why the log is not complete."""
        found = self.report
        if found is None:
            return ()
        messages = [self._trouble, *found.problems]
        if found.lost:
            messages.append(f"{found.lost} starts and ends of connections were lost: they came too fast")
        if found.unwritten:
            messages.append(f"{found.unwritten} lines were lost, since they could not be written")
        return tuple(Problem("connectionLog", "", text) for text in messages if text)

    async def run(self) -> None:
        """Keep the process running until cancelled."""
        if self._config.connection_log is None:
            with contextlib.suppress(OSError):
                (self._config.run_dir / report.REPORT).unlink(missing_ok=True)
            await asyncio.Event().wait()
        while True:
            try:
                self._trouble = await self._process()
            except OSError as error:
                self._trouble = f"its process cannot be started: {error}"
            log.error("connection log: %s", self._trouble)
            await asyncio.sleep(RESTART_S)

    async def _process(self) -> str:
        """Run one process to its end. Return why it has ended. Raises OSError if none can be started."""
        process = await asyncio.create_subprocess_exec(
            *self._command(), stdin=PIPE, stdout=DEVNULL, stderr=PIPE, env=_environment()
        )
        try:
            started = asyncio.get_running_loop().call_later(RESTART_S, self._clear)
            assert process.stderr is not None
            said = await process.stderr.read()
            started.cancel()
            last = said.decode(errors="replace").strip().splitlines()[-1:]
            return f"its process has ended: {''.join(last) or await process.wait()}"
        finally:
            await _end(process)

    def _clear(self) -> None:
        self._trouble = ""

    def _command(self) -> tuple[str, ...]:
        config, wanted = self._config, self._config.connection_log
        assert wanted is not None
        options = {
            "--run-dir": config.run_dir, "--node": config.node_name, "--mark-mask": config.mark_mask,
            "--file": wanted.file, "--max-bytes": wanted.max_bytes, "--keep": wanted.keep,
        }  # fmt: skip
        arguments = (str(value) for option in options.items() for value in option)
        return (sys.executable, "-S", "-m", MODULE, *arguments, *(["--journal"] if wanted.journal else []))


def _environment() -> dict[str, str]:
    paths = (str(Path(__file__).parents[3]), *sys.path)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


async def _end(process: Process) -> None:
    """Stop a process, which first writes the events that it has read, and wait for its end."""
    if process.stdin is not None:
        process.stdin.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_S):
            await process.wait()
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
