"""Pauses of the machine itself: moments in which a processor ran nothing, not even a process of the highest priority.

``python -m tests.lab.stalls`` runs until its standard input closes, and prints one JSON list of ``[begin, end]`` in ns.
The host of a virtual machine takes its processors away for a moment, and a lease that nobody can renew meanwhile ends
as it should. A test of a promise that holds while the machine runs leaves such moments out; a pause of our own
processes alone is no such moment.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from types import TracebackType

from .silence import Probe

PERIOD_S = 0.002
LONG_NS = 20_000_000
"""A pause shorter than this ends no lease of the lab."""
AFTER_NS = 150_000_000
"""After a pause: until the leases that have ended are renewed."""
HIGHEST_PRIORITY = 99
"""Of real-time scheduling; lease daemons have less."""


@dataclass(frozen=True)
class Stall:
    """The machine stood still. Wall clock, ns."""

    begin: int
    end: int


def lost_while_running(probes: Sequence[Probe], stalls: Sequence[Stall]) -> list[Probe]:
    """Return the probes without an answer that no pause of the machine explains."""
    return [
        probe
        for probe in probes
        if not probe.address and not any(s.begin <= probe.sent <= s.end + AFTER_NS for s in stalls)
    ]


class Stalls:
    """Watches all processors from its making to :meth:`stop`; use it in a ``with`` statement."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.lab.stalls"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError("the machine's pauses cannot be watched")

    def stop(self) -> list[Stall]:
        """Return each pause until now."""
        output, _ = self._process.communicate(timeout=30)
        return [Stall(*each) for each in json.loads(output)]

    def __enter__(self) -> Stalls:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.communicate()


def _watch(processor: int, end: Event, results: multiprocessing.Queue[list[tuple[int, int]]]) -> None:
    os.sched_setaffinity(0, {processor})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(HIGHEST_PRIORITY))
    found, before = [], time.time_ns()
    while not end.is_set():
        time.sleep(PERIOD_S)
        now = time.time_ns()
        if now - before > LONG_NS:
            found.append((before, now))
        before = now
    results.put(found)


def main() -> None:
    """Watch until standard input closes."""
    context = multiprocessing.get_context("fork")
    end, results = context.Event(), context.Queue()
    watchers = [context.Process(target=_watch, args=(n, end, results)) for n in os.sched_getaffinity(0)]
    for watcher in watchers:
        watcher.start()
    print("ready", flush=True)
    sys.stdin.read()
    end.set()
    print(json.dumps(sorted(stall for _ in watchers for stall in results.get())))
    for watcher in watchers:
        watcher.join()


if __name__ == "__main__":
    main()
