"""Run ``conntrackd``: start it, watch it, restart it, end it.

The kernel ends it together with the agent (``PR_SET_PDEATHSIG``). A new agent starts it again, and its first request to
the partners fills the gap. A process that a crash left behind is found by its command line and ended before a start.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import socket
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cni.kernel.sysctl import PROC_SYS_NET

from ...policy.egress_node import sync_groups
from ...policy.egress_node.sync_groups import Counters, Files, SyncState
from .conntrackd_process import (
    END_TIMEOUT_S,
    call,
    calm,
    end,
    end_strangers,
    remove_files,
    spawn,
    write_configuration,
)

FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.1, 10.0
"""Seconds between its end and the next start, doubled with each restart until it has been in sync."""
SYNCING_POLL_S, SYNCED_POLL_S = 0.25, 5.0
"""Seconds between two readings of its counters: until it is in sync, and after that."""
START_ATTEMPTS, RUNNING_ATTEMPTS = 120, 3
"""Consecutive failed calls, :data:`SYNCING_POLL_S` apart, after which it is restarted: after a start, and later."""
TAKEOVER_PAUSE_S = 1.0
"""Seconds from mastership to the first reading of the whole table. The takeover itself needs the processor."""
RESEND_INTERVAL_S = 60.0
"""Seconds between two transmissions of a master's whole table. The kernel sends no event for a flow that only
continues, so the copies of UDP flows would expire after 120 s. Lost datagrams are repaired as well."""
EVENTS = PROC_SYS_NET / "netfilter" / "nf_conntrack_events"
log = logging.getLogger(__name__)


class ConnectionSync:
    """The supervisor of all ``conntrackd`` of this node. Every method belongs to the agent's event loop.

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
        self._locks: dict[str, asyncio.Lock] = {}
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
        lock = self._locks.setdefault(name, asyncio.Lock())
        instance = _Instance(text, paths, self._prefix, self._refresh, self._changed)
        instance.serve(self._serving)
        instance.task = asyncio.create_task(instance.run(lock))
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

    async def run(self, lock: asyncio.Lock) -> None:
        """Keep the process running until cancelled. ``lock``: held until the process is gone, one at a time."""
        pause = FIRST_BACKOFF_S
        async with lock:
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
                    remove_files(self._paths)

    async def _once(self) -> None:
        """Start the process and return when it has ended, which may be at once."""
        try:
            await end_strangers(self._paths.configuration)
            write_configuration(self._paths, self.text)
            # setpriv makes the kernel end it together with this process.
            process = await spawn("setpriv", "--pdeathsig", "TERM", "--", *self._command)
        except OSError as error:
            self._update(error=str(error))
            return
        parts = (asyncio.create_task(self._listen(process)), asyncio.create_task(self._watch(process)))
        try:
            await process.wait()
            await asyncio.wait(parts[:1], timeout=END_TIMEOUT_S)  # The last line has the reason.
        finally:
            for part in parts:
                part.cancel()
            await end(process)
            await asyncio.gather(*parts, return_exceptions=True)

    async def _listen(self, process: Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            text = line.decode(errors="replace").rstrip()
            log.debug("conntrackd: %s", text)
            if message := sync_groups.complaint(text):
                self._update(error=message)

    async def _watch(self, process: Process) -> None:
        """Set the role of conntrackd and read its counters. End it if it does not answer."""
        attempts = START_ATTEMPTS
        while attempts:
            try:
                await self._read_counters()
                attempts = RUNNING_ATTEMPTS
                calm(process.pid)
                await (self._serve() if self._serving else self._standby())
            except (OSError, ValueError) as error:
                attempts -= 1
                log.debug("conntrackd: %s", error)
                await asyncio.sleep(SYNCING_POLL_S)
        self._update(error="conntrackd does not answer")
        await end(process)

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

    async def _standby(self) -> None:
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
            await call(self._command, *options)

    async def _read_counters(self) -> Counters:
        counters = sync_groups.counters(await call(self._command, "-s"))
        self._update(
            counters=counters, overruns=sync_groups.overruns(await call(self._command, "-s", "runtime"))
        )
        if EVENTS.exists() and EVENTS.read_text() == "0\n":
            self._update(error="sysctl net.netfilter.nf_conntrack_events is 0: the kernel reports no changes")
        return counters

    async def _part_changes(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._part_changed.wait()
        return self._part_changed.is_set()

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
