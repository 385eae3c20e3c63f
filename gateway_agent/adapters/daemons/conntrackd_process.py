"""One process of ``conntrackd``: its files, its start, its end, and calls to it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Sequence
from pathlib import Path

import psutil

from cni.files import named

from ...policy.egress_node.sync_groups import Files

CALL_TIMEOUT_S = 10.0
END_TIMEOUT_S = 2.0
NICE = -10
"""Nice value of conntrackd: before ordinary processes."""
ENV = {**os.environ, "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"}


async def spawn(*command: str) -> Process:
    """Start a program; its output and errors come by one pipe. Raises OSError."""
    return await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env=ENV)


async def call(command: Sequence[str], *options: str) -> str:
    """Return the answer of the running process of ``command`` to ``options``. Raises OSError if there is none."""
    process = await spawn(*command, *options)
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            said, _ = await process.communicate()
    except TimeoutError:
        raise OSError(0, f"no answer to {' '.join(options)}") from None
    finally:
        await end(process)
    text = said.decode(errors="replace")
    if process.returncode:
        raise OSError(0, text.strip() or f"exit code {process.returncode}")
    return text


def calm(pid: int) -> None:
    """Replace the real-time scheduling of a process by ordinary scheduling; its configuration can only lower it.

    Reading a whole table takes about 100 ms, in which the kernel's packet processing must get processor time.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, pid, NICE)


def write_configuration(paths: Files, text: str) -> None:
    """Write the configuration (mode 0600), and remove the lock and socket of an earlier process. Raises OSError."""
    remove_files(paths)
    descriptor = os.open(paths.configuration, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with named(Path(paths.configuration)), open(descriptor, "w") as file:
        file.write(text)


def remove_files(paths: Files) -> None:
    """Remove the configuration, the lock and the socket. Raises OSError."""
    for path in dataclasses.astuple(paths):
        Path(path).unlink(missing_ok=True)


async def end(process: Process) -> None:
    """End a process with SIGTERM, else with SIGKILL, and wait until it is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_TIMEOUT_S):
                await process.wait()


async def end_strangers(configuration: str) -> None:
    """Kill the processes with this configuration that an earlier agent left. Raises OSError if one remains."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + END_TIMEOUT_S
    while found := await asyncio.to_thread(_with_configuration, configuration):
        if loop.time() > deadline:
            raise OSError(0, f"an older conntrackd does not end: process {found[0].pid}")
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        await asyncio.sleep(0.02)


def _with_configuration(path: str) -> list[psutil.Process]:
    """Return the running conntrackd with this configuration. A call to conntrackd has more options and is none."""
    commands = ((process, process.info["cmdline"] or [""]) for process in psutil.process_iter(["cmdline"]))
    return [p for p, (name, *rest) in commands if rest == ["-C", path] and Path(name).name == "conntrackd"]
