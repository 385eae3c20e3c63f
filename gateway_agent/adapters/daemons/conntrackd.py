"""Run ``conntrackd``: start it, watch it, restart it, end it.

The kernel ends it together with the agent (``PR_SET_PDEATHSIG``). A new agent starts it again, and its first request to
the partners fills the gap. A process that a crash left behind is found by its command line and ended before a start.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import socket
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from cni.files import named
from cni.kernel.sysctl import PROC_SYS_NET

from ...policy.egress_node import sync_groups
from ...policy.egress_node.sync_groups import Counters, Files, SyncState

FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.1, 10.0
"""Seconds between its end and the next start, doubled with each restart until it has been in sync."""
SYNCING_POLL_S, SYNCED_POLL_S = 0.25, 5.0
"""Seconds between two readings of its counters: until it is in sync, and after that."""
CALL_TIMEOUT_S = 10.0
START_ATTEMPTS, RUNNING_ATTEMPTS = 120, 3
"""Failed calls in a row, :data:`SYNCING_POLL_S` apart, after which it is restarted: after a start, and later."""
END_TIMEOUT_S = 2.0
NICE = -10
"""Nice value of conntrackd: before ordinary processes."""
TAKEOVER_PAUSE_S = 1.0
"""Seconds from mastership to the first reading of the whole table. The takeover itself needs the processor."""
RESEND_INTERVAL_S = 60.0
"""Seconds between two transmissions of a master's whole table. The kernel sends no event for a flow that only
continues, so the copies of UDP flows would expire after 120 s. Lost datagrams are repaired as well."""
EVENTS = PROC_SYS_NET / "netfilter" / "nf_conntrack_events"
ENV = {**os.environ, "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"}
log = logging.getLogger(__name__)


class ConnectionSync:
    """Runs all ``conntrackd`` of this node. Every method belongs to the agent's event loop.

    ``changed``: called after each change of a state. ``prefix``: put before each command. ``refresh``: seconds, see
    :data:`RESEND_INTERVAL_S`.
    """

    def __init__(
        self,
        run_dir: Path,
        changed: Callable[[], None] = lambda: None,
        prefix: Sequence[str] = (),
        refresh: float = RESEND_INTERVAL_S,
    ) -> None:
        self._run_dir = run_dir
        self._changed = changed
        self._prefix = tuple(prefix)
        self._refresh = refresh
        self._serving = False
        self._running: dict[str, _Instance] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def set(self, configurations: Mapping[str, str]) -> None:
        """Run one conntrackd for each of these configurations (text by name), and end all others.

        A changed text restarts its conntrackd. Raises :class:`ValueError` if conntrackd would not accept the paths of
        a name.
        """
        paths = {name: sync_groups.files(str(self._run_dir), name) for name in configurations}
        for name, instance in list(self._running.items()):
            if configurations.get(name) != instance.text:
                del self._running[name]
                instance.task.cancel()
        for name, text in configurations.items():
            if name not in self._running:
                self._running[name] = self._start(name, text, paths[name])

    def serve(self, serving: bool) -> None:
        """Set the role. ``serving``: this node is master of a synced egress IP."""
        self._serving = serving
        for instance in self._running.values():
            instance.serve(serving)

    def state(self) -> Mapping[str, SyncState]:
        """Return the state of each conntrackd by name."""
        return {name: instance.state for name, instance in self._running.items()}

    def interface_index(self, name: str) -> int:
        """Return the kernel's number of an interface; 0 if there is none of this name."""
        return interface_index(name)

    async def stop(self) -> None:
        """End all processes and wait until they are gone."""
        self.set({})
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, name: str, text: str, paths: Files) -> _Instance:
        turn = self._turns.setdefault(name, asyncio.Lock())
        instance = _Instance(text, paths, self._prefix, self._refresh, self._changed)
        instance.serve(self._serving)
        instance.task = asyncio.create_task(instance.run(turn))
        self._tasks.add(instance.task)
        instance.task.add_done_callback(self._tasks.discard)
        return instance


class _Instance:
    """One configuration and its process, which ends with the task."""

    task: asyncio.Task[None]

    def __init__(
        self, text: str, paths: Files, prefix: tuple[str, ...], refresh: float, changed: Callable[[], None]
    ) -> None:
        self.text = text
        self.state = SyncState()
        self._paths = paths
        self._command = (*prefix, "conntrackd", "-C", paths.configuration)
        self._refresh = refresh
        self._changed = changed
        self._serving = False
        self._part_changed = asyncio.Event()

    def serve(self, serving: bool) -> None:
        """Set the role: master or standby."""
        if serving != self._serving:
            self._serving = serving
            self._part_changed.set()

    async def run(self, turn: asyncio.Lock) -> None:
        """Keep the process running until cancelled. ``turn``: held until the process is gone, one at a time."""
        pause = FIRST_BACKOFF_S
        async with turn:
            try:
                while True:
                    await self._once()
                    pause = FIRST_BACKOFF_S if self.state.in_sync else pause
                    self._update(running=False, in_sync=False, reason="conntrackd has ended")
                    log.warning("conntrackd has ended: %s", self.state.error or "it gave no reason")
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, MAX_BACKOFF_S)
                    self._update(restarts=self.state.restarts + 1)
            finally:
                with contextlib.suppress(OSError):
                    _remove(self._paths)

    async def _once(self) -> None:
        """Start the process and return when it has ended, which may be at once."""
        try:
            await _end_strangers(self._paths.configuration)
            _write(self._paths, self.text)
            # setpriv makes the kernel end it together with this process.
            process = await _spawn("setpriv", "--pdeathsig", "TERM", "--", *self._command)
        except OSError as error:
            self._update(error=str(error))
            return
        parts = (asyncio.create_task(self._listen(process)), asyncio.create_task(self._watch(process)))
        try:
            await process.wait()
            await asyncio.wait(parts[:1], timeout=END_TIMEOUT_S)  # its last line is the reason
        finally:
            for part in parts:
                part.cancel()
            await _end(process)
            await asyncio.gather(*parts, return_exceptions=True)

    async def _listen(self, process: Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            text = line.decode(errors="replace").rstrip()
            log.debug("conntrackd: %s", text)
            if words := sync_groups.complaint(text):
                self._update(error=words)

    async def _watch(self, process: Process) -> None:
        """Give it its role and read its counters. End it if it does not answer."""
        attempts = START_ATTEMPTS
        while attempts:
            try:
                await self._read_counters()
                attempts = RUNNING_ATTEMPTS
                _calm(process.pid)
                await (self._serve() if self._serving else self._stand_by())
            except (OSError, ValueError) as error:
                attempts -= 1
                log.debug("conntrackd: %s", error)
                await asyncio.sleep(SYNCING_POLL_S)
        self._update(error="conntrackd does not answer")
        await _end(process)

    async def _serve(self) -> None:
        """Act as master until the role changes. Raises OSError and ValueError."""
        self._part_changed.clear()
        self._update(running=True, in_sync=True, reason="")
        if await self._part_changes(TAKEOVER_PAUSE_S):
            return
        loop = asyncio.get_running_loop()
        await self._order(sync_groups.commands(serving=True))
        sent, overruns = loop.time(), self.state.overruns
        while not await self._part_changes(min(SYNCED_POLL_S, self._refresh)):
            await self._read_counters()
            missed = self.state.overruns > overruns
            if missed or loop.time() - sent >= self._refresh:
                await self._order(
                    sync_groups.commands(serving=True) if missed else sync_groups.RESEND_COMMANDS
                )
                sent, overruns = loop.time(), self.state.overruns

    async def _stand_by(self) -> None:
        """Act as standby until the role changes. A table in sync stays in sync. Raises OSError and ValueError."""
        self._part_changed.clear()
        self._update(running=True)
        await self._order(sync_groups.commands(serving=False))
        loop = asyncio.get_running_loop()
        asked = looked = loop.time()
        before = self.state.counters.received
        while not await self._part_changes(SYNCED_POLL_S if self.state.in_sync else SYNCING_POLL_S):
            now = await self._read_counters()
            rate = (now.received - before) / (loop.time() - looked)
            before, looked = now.received, loop.time()
            reason = "" if self.state.in_sync else sync_groups.behind(looked - asked, rate, now)
            self._update(in_sync=not reason, reason=reason)

    async def _order(self, commands: Sequence[Sequence[str]]) -> None:
        for options in commands:
            await self._call(*options)

    async def _read_counters(self) -> Counters:
        counters = sync_groups.counters(await self._call("-s"))
        self._update(counters=counters, overruns=sync_groups.overruns(await self._call("-s", "runtime")))
        if EVENTS.exists() and EVENTS.read_text() == "0\n":
            self._update(error="sysctl net.netfilter.nf_conntrack_events is 0: the kernel reports no changes")
        return counters

    async def _part_changes(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._part_changed.wait()
        return self._part_changed.is_set()

    async def _call(self, *options: str) -> str:
        """Return the answer of the running process to a command. Raises OSError if there is none."""
        process = await _spawn(*self._command, *options)
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                said, _ = await process.communicate()
        except TimeoutError:
            raise OSError(0, f"no answer to {' '.join(options)}") from None
        finally:
            await _end(process)
        text = said.decode(errors="replace")
        if process.returncode:
            raise OSError(0, text.strip() or f"exit code {process.returncode}")
        return text

    def _update(self, **changes: object) -> None:
        state = dataclasses.replace(self.state, **changes)  # type: ignore[arg-type]
        if state != self.state:
            self.state = state
            self._changed()


def interface_index(name: str) -> int:
    """Return the kernel's number of an interface; 0 if there is no such interface."""
    with contextlib.suppress(OSError):
        return socket.if_nametoindex(name)
    return 0


async def _spawn(*command: str) -> Process:
    return await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env=ENV)


def _calm(pid: int) -> None:
    """Replace the real-time scheduling of a process by ordinary scheduling; its configuration can only lower it.

    Reading a whole table takes about 100 ms, in which the kernel's packet processing must get processor time.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, pid, NICE)


def _write(paths: Files, text: str) -> None:
    """Write the configuration (mode 0600), and remove the lock and socket of an earlier process. Raises OSError."""
    _remove(paths)
    descriptor = os.open(paths.configuration, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with named(Path(paths.configuration)), open(descriptor, "w") as file:
        file.write(text)


def _remove(paths: Files) -> None:
    for path in dataclasses.astuple(paths):
        Path(path).unlink(missing_ok=True)


async def _end(process: Process) -> None:
    """End a process with SIGTERM, else with SIGKILL, and wait until it is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_TIMEOUT_S):
                await process.wait()


async def _end_strangers(configuration: str) -> None:
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
