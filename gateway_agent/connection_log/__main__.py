"""``python -m gateway_agent.connection_log``: write the log until standard input closes.

The log has a process of its own: neither thousands of events a second nor a slow disk delay the agent, and the lease
daemon has priority.
"""

from __future__ import annotations

import argparse
import gc
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cni.calls import attachments
from cni.contract import PLAN
from cni.kernel.ids import MarkLayout
from cni.kernel.netlink.conntrack.ct_events import Event, MarkedEvents
from cni.kernel.netlink.conntrack.ct_flows import flow
from cni.kernel.sysctl import PROC_SYS_NET
from cni.plan import loads

from . import lines, report
from .halves import Knowledge, Pod, came_by_tunnel, knowledge
from .journal import Journal
from .log_file import LogFile
from .recorder import Record, Recorder
from .report import Report

BUFFER_BYTES = 64 << 20
"""Size of the kernel's queue of events: room for some ten thousand."""
BATCH = 2000
"""Largest number of events that are read before lines are written."""
REPORT_S = 1.0
MAX_POD_ADDRESSES = 20_000
"""Largest number of addresses of deleted pods that are remembered."""
NICE = 5
ACCOUNTING, EVENTS = (
    PROC_SYS_NET / "netfilter/nf_conntrack_acct",
    PROC_SYS_NET / "netfilter/nf_conntrack_events",
)


class Node:
    """The plan and the attachments of this node, read again when they change."""

    def __init__(self, run_dir: Path, name: str, mask: int) -> None:
        self._run_dir = run_dir
        self._stamp: tuple[int, int] = (-1, -1)
        self.known = Knowledge(name, MarkLayout(mask))

    def follow(self) -> None:
        """Read changed files. An unreadable file keeps its last state."""
        try:
            stamp = os.stat(self._run_dir / PLAN).st_mtime_ns, attachments.stamp(self._run_dir)
            if stamp == self._stamp:
                return
            plan = loads((self._run_dir / PLAN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        records, _ = attachments.load_all(self._run_dir)
        before: dict[str, Pod] = dict(self.known.pods) if len(self.known.pods) < MAX_POD_ADDRESSES else {}
        self.known, self._stamp = knowledge(plan, records, before), stamp


class Log:
    """The writer of the lines of events."""

    def __init__(self, node: Node, file: LogFile | Journal, clock: Callable[[], float]) -> None:
        self._node = node
        self._file = file
        self._clock = clock
        self._recorder = Recorder()
        self.lines = self.unwritten = 0
        self.trouble = ""

    def take(self, events: list[Event]) -> None:
        """Write the lines of these events, all with the present time."""
        self._node.follow()
        now, name = self._clock(), self._node.known.node
        written = [lines.line(now, name, record) for event in events if (record := self._record(event))]
        if not written:
            return
        try:
            done, self.trouble = self._file.append(b"".join(written)), ""
        except OSError as error:
            done, self.trouble = 0, f"lines are not written: {error}"
        self.lines += done
        self.unwritten += len(written) - done

    def _record(self, event: Event) -> Record | None:
        found = flow(event.body)
        if found is None:
            return None
        if event.ended:
            return self._recorder.ended(self._node.known, found)
        known = self._node.known
        if not came_by_tunnel(known, found.mark) and found.original.source not in known.pods:
            # The pod may have just started.
            self._node.follow()
        return self._recorder.begun(self._node.known, found, event.injected)


def main() -> int:
    """Write the log until standard input closes. Return the exit code."""
    parser = argparse.ArgumentParser(prog="egress-gateway-connection-log")
    for name, kind in (("--run-dir", Path), ("--file", Path), ("--node", str)):
        parser.add_argument(name, type=kind, required=True)
    for name in ("--max-bytes", "--keep", "--mark-mask"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--journal", action="store_true", help="in place of the file")
    options = parser.parse_args()
    # The data has no cycles, and the starts of open connections are many.
    gc.disable()
    os.nice(NICE)
    # The agent ends this process: a signal to its group leaves lines unwritten.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    layout = MarkLayout(options.mark_mask)
    try:
        events = MarkedEvents(layout.mask & ~layout.tunneled, BUFFER_BYTES)
    except OSError as error:
        print(f"no events of connections: {error}", file=sys.stderr)
        return 1
    file = Journal() if options.journal else LogFile(options.file, options.max_bytes, options.keep)
    log = Log(Node(options.run_dir, options.node, options.mark_mask), file, time.time)
    _serve(events, log, options.run_dir, settings())
    file.close()
    return 0


def _serve(events: MarkedEvents, log: Log, run_dir: Path, problems: tuple[str, ...]) -> None:
    poll = select.poll()
    poll.register(events, select.POLLIN)
    poll.register(sys.stdin, select.POLLIN | select.POLLHUP)
    due, ending, last = 0.0, False, None
    while not ending:
        ready = dict(poll.poll(REPORT_S * 1000 if last else 0))
        ending = sys.stdin.fileno() in ready
        while (found := events.read(BATCH)) and ending:
            log.take(found)
        log.take(found)
        if ending or time.monotonic() >= due:
            now = Report(log.lines, events.lost, log.unwritten, (*problems, *filter(None, [log.trouble])))
            if now != last:
                report.write(run_dir, now)
            due, last = time.monotonic() + REPORT_S, now


def settings() -> tuple[str, ...]:
    """Make the kernel count bytes. Return the problems."""
    found = []
    try:
        if ACCOUNTING.read_text(encoding="ascii").strip() == "0":
            ACCOUNTING.write_text("1", encoding="ascii")
    except OSError as error:
        found.append(f"bytes are not counted: net.netfilter.nf_conntrack_acct is off, and {error}")
    try:
        if EVENTS.read_text(encoding="ascii").strip() == "0":
            found.append("nothing is logged: net.netfilter.nf_conntrack_events is 0; set it to 1 or 2")
    except OSError as error:
        found.append(f"it is not known whether the kernel reports connections: {error}")
    return tuple(found)


if __name__ == "__main__":
    sys.exit(main())
