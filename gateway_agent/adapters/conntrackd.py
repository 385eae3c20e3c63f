"""Runs ``conntrackd``: starts it, watches it, starts it anew, ends it.

It dies with the agent: the kernel sees to that. A new agent starts it anew, and its first request fills the gap.
What a crash between two lines leaves behind is found by its command line before a start, and ended.
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

from ..policy import sync_groups
from ..policy.sync_groups import Counters, Files, SyncState

FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.1, 10.0
"""Seconds before a start after an end; doubled until it has been in sync."""
SYNCING_POLL_S, SYNCED_POLL_S = 0.25, 5.0
"""Seconds between two looks at its counters: until it is in sync, and after that."""
CALL_LIMIT = 10.0
START_CHANCES, DEAF = 120, 3
"""Calls without an answer, :data:`SYNCING_POLL_S` apart, after which it is started anew: as it starts, and later."""
END_LIMIT = 2.0
NICE = -10
"""Of conntrackd: ahead of what is ordinary."""
TAKEOVER_PAUSE = 1.0
"""Seconds from mastership to the first look at the whole table: a takeover needs the processor itself."""
RESEND_INTERVAL_S = 60.0
"""Seconds between two sendings of a master's table. The kernel tells nothing while a flow only goes on, so the
copies of UDP flows would end after 120 s; and it makes good what was lost on the way."""
EVENTS = PROC_SYS_NET / "netfilter" / "nf_conntrack_events"
ENV = {**os.environ, "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"}
log = logging.getLogger(__name__)


class ConnectionSync:
    """All ``conntrackd`` of this node. Every method is for the agent's loop; ``changed`` is called on each news.

    ``prefix`` goes before each command; ``refresh`` as :data:`RESEND_INTERVAL_S`.
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
        """What is to run, by name: starts, starts anew where the text has changed, ends what is not there.

        Raises :class:`ValueError` for a run directory or a name whose paths conntrackd cannot take.
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
        """Whether this node is master of a synced egress IP."""
        self._serving = serving
        for instance in self._running.values():
            instance.serve(serving)

    def state(self) -> Mapping[str, SyncState]:
        return {name: instance.state for name, instance in self._running.items()}

    async def stop(self) -> None:
        """Ends all, and waits until they are gone."""
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
    """One configuration, and the process that has it; ends with its task."""

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
        if serving != self._serving:
            self._serving = serving
            self._part_changed.set()

    async def run(self, turn: asyncio.Lock) -> None:
        """Keeps it running until cancelled. ``turn`` belongs to one at a time, until its process is gone."""
        pause = FIRST_BACKOFF_S
        async with turn:
            try:
                while True:
                    await self._once()
                    pause = FIRST_BACKOFF_S if self.state.in_sync else pause
                    self._tell(running=False, in_sync=False, reason="conntrackd has ended")
                    log.warning("conntrackd has ended: %s", self.state.error or "it did not say why")
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, MAX_BACKOFF_S)
                    self._tell(restarts=self.state.restarts + 1)
            finally:
                with contextlib.suppress(OSError):
                    _remove(self._paths)

    async def _once(self) -> None:
        """From a start to its end, which may come at once."""
        try:
            await _end_strangers(self._paths.configuration)
            _write(self._paths, self.text)
            # Below setpriv, so that the kernel ends it with this process.
            process = await _spawn("setpriv", "--pdeathsig", "TERM", "--", *self._command)
        except OSError as error:
            self._tell(error=str(error))
            return
        parts = (asyncio.create_task(self._listen(process)), asyncio.create_task(self._watch(process)))
        try:
            await process.wait()
            await asyncio.wait(parts[:1], timeout=END_LIMIT)  # what it said last is the reason
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
                self._tell(error=words)

    async def _watch(self, process: Process) -> None:
        """Tells it its part and reads its counters; ends it where it does not answer."""
        chances = START_CHANCES
        while chances:
            try:
                await self._look()
                chances = DEAF
                _calm(process.pid)
                await (self._serve() if self._serving else self._stand_by())
            except (OSError, ValueError) as error:
                chances -= 1
                log.debug("conntrackd: %s", error)
                await asyncio.sleep(SYNCING_POLL_S)
        self._tell(error="conntrackd does not answer")
        await _end(process)

    async def _serve(self) -> None:
        """A master's part, until it changes. Raises OSError and ValueError."""
        self._part_changed.clear()
        self._tell(running=True, in_sync=True, reason="")
        if await self._part_changes(TAKEOVER_PAUSE):
            return
        loop = asyncio.get_running_loop()
        await self._order(sync_groups.commands(serving=True))
        sent, overruns = loop.time(), self.state.overruns
        while not await self._part_changes(min(SYNCED_POLL_S, self._refresh)):
            await self._look()
            missed = self.state.overruns > overruns
            if missed or loop.time() - sent >= self._refresh:
                await self._order(
                    sync_groups.commands(serving=True) if missed else sync_groups.RESEND_COMMANDS
                )
                sent, overruns = loop.time(), self.state.overruns

    async def _stand_by(self) -> None:
        """A standby's part, until it changes. Who was in sync stays so. Raises OSError and ValueError."""
        self._part_changed.clear()
        self._tell(running=True)
        await self._order(sync_groups.commands(serving=False))
        loop = asyncio.get_running_loop()
        asked = looked = loop.time()
        before = self.state.counters.received
        while not await self._part_changes(SYNCED_POLL_S if self.state.in_sync else SYNCING_POLL_S):
            now = await self._look()
            rate = (now.received - before) / (loop.time() - looked)
            before, looked = now.received, loop.time()
            reason = "" if self.state.in_sync else sync_groups.behind(looked - asked, rate, now)
            self._tell(in_sync=not reason, reason=reason)

    async def _order(self, commands: Sequence[Sequence[str]]) -> None:
        for options in commands:
            await self._call(*options)

    async def _look(self) -> Counters:
        counters = sync_groups.counters(await self._call("-s"))
        self._tell(counters=counters, overruns=sync_groups.overruns(await self._call("-s", "runtime")))
        if EVENTS.exists() and EVENTS.read_text() == "0\n":
            self._tell(error="sysctl net.netfilter.nf_conntrack_events is 0: the kernel tells no changes")
        return counters

    async def _part_changes(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._part_changed.wait()
        return self._part_changed.is_set()

    async def _call(self, *options: str) -> str:
        """The answer of the running process. Raises OSError where there is none."""
        process = await _spawn(*self._command, *options)
        try:
            async with asyncio.timeout(CALL_LIMIT):
                said, _ = await process.communicate()
        except TimeoutError:
            raise OSError(0, f"no answer to {' '.join(options)}") from None
        finally:
            await _end(process)
        text = said.decode(errors="replace")
        if process.returncode:
            raise OSError(0, text.strip() or f"exit code {process.returncode}")
        return text

    def _tell(self, **changes: object) -> None:
        state = dataclasses.replace(self.state, **changes)  # type: ignore[arg-type]
        if state != self.state:
            self.state = state
            self._changed()


def interface_index(name: str) -> int:
    """The kernel's number of an interface; 0 where there is none."""
    with contextlib.suppress(OSError):
        return socket.if_nametoindex(name)
    return 0


async def _spawn(*command: str) -> Process:
    return await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env=ENV)


def _calm(pid: int) -> None:
    """Takes its real-time scheduling away, which its configuration can only lower: reading a whole table takes some
    100 ms, and the kernel's own packet processing must have its turn in between."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, pid, NICE)


def _write(paths: Files, text: str) -> None:
    """The configuration, for root only; and no lock or socket of a process that is gone. Raises OSError."""
    _remove(paths)
    descriptor = os.open(paths.configuration, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with named(Path(paths.configuration)), open(descriptor, "w") as file:
        file.write(text)


def _remove(paths: Files) -> None:
    for path in dataclasses.astuple(paths):
        Path(path).unlink(missing_ok=True)


async def _end(process: Process) -> None:
    """Ends it, gently if it listens, and waits until it is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_LIMIT):
                await process.wait()


async def _end_strangers(configuration: str) -> None:
    """Ends a process with this configuration that an earlier agent has left. Raises OSError where it stays."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + END_LIMIT
    while found := await asyncio.to_thread(_with_configuration, configuration):
        if loop.time() > deadline:
            raise OSError(0, f"an older conntrackd does not end: process {found[0].pid}")
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        await asyncio.sleep(0.02)


def _with_configuration(path: str) -> list[psutil.Process]:
    """Those that run as conntrackd by this configuration; a call to one has more options."""
    commands = ((process, process.info["cmdline"] or [""]) for process in psutil.process_iter(["cmdline"]))
    return [p for p, (name, *rest) in commands if rest == ["-C", path] and Path(name).name == "conntrackd"]
