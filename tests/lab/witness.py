"""A witness of its own process: says ``ready``, works until its standard input closes, then tells what it saw.

Its program prints one JSON value at the end; some print one for each line that they are sent, too. A witness outlives
nobody: where the lab's process is killed, the witness's standard input closes too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .namespace import REPOSITORY, Namespace


class Witness:
    """Runs ``python -m module arguments…`` in ``machine``; use it in a ``with`` statement.

    Without a machine it runs beside the lab and works with the sockets in ``descriptors``, which it inherits: so
    it lives on where every process of the machine is killed. Raises :class:`RuntimeError` where it does not start.
    """

    def __init__(
        self,
        machine: Namespace | None,
        module: str,
        arguments: Sequence[str],
        log: Path,
        descriptors: Sequence[int] = (),
    ) -> None:
        self._module, self._log = module, log
        program = [sys.executable, "-m", module, *arguments]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                program if machine is None else machine.command(*program),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=REPOSITORY,
                start_new_session=True,
                pass_fds=descriptors,
            )
        started = self._process.stdout.readline() if self._process.stdout else b""
        if started != b"ready\n":
            self.close()
            raise RuntimeError(f"{module} did not start: {log.read_text().strip().rpartition(chr(10))[2]}")

    def end(self, seconds: float = 30.0) -> Any:
        """End it and returns what it tells. Raises :class:`RuntimeError` if it ended before in an error."""
        output, _ = self._process.communicate(timeout=seconds)
        if self._process.returncode:
            raise RuntimeError(
                f"{self._module} ended by itself, exit {self._process.returncode}: see {self._log}"
            )
        return json.loads(output)

    def ask(self) -> Any:
        """Return the observations of a witness since the last question.

        Raises :class:`RuntimeError` where it has ended.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError(f"{self._module} cannot be asked")
        with suppress(BrokenPipeError):
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._module} has ended by itself: see {self._log}")
        return json.loads(line)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def close(self) -> None:
        """End it without asking. May be called twice."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run_in_real_time() -> None:
    """Give the calling process real-time priority; without permission it is less punctual."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
