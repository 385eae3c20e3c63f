"""Install the plugin on the node and in its CNI configuration, or remove both.

With ``--watch`` the program keeps running and restores its entry after another program has overwritten it: an updated
network plugin writes its configuration again, and pods that start without our plugin would not be selected. A plugin
that cannot run on the node is never chained, because every pod start would fail.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cni.files import replace_file

from ..manifests.model import Problem
from ..printable import printable
from . import chaining, command_line, conflist_text, drop_in, inotify
from .conf_dir import configurations
from .conflist_text import NotChainable, Report
from .plugin_probe import PluginProbe
from .runtime import Runtime

DONE, FAILED = 0, 1
SETTLE_S, POLL_INTERVAL_S = 0.1, 1.0
"""Seconds without a change after which an unloadable file counts as broken and not as being written; seconds between
two checks without an event.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the installer. Return the exit code: 0 done, 1 failed, 2 wrong usage."""
    options = command_line.parser((__doc__ or "").partition("\n")[0]).parse_args(arguments)
    try:
        if options.command == "remove":
            remove(options.bin_dir, options.conf_dir)
            options.report.unlink(missing_ok=True)
        elif options.watch:
            _watch(options)
        else:
            done = _once_for_all(options)
            for problem in done.problems:
                print(f"egress-gateway-cni: {printable(str(problem))}", file=sys.stderr)
            return DONE if done.chained else FAILED
    except OSError as error:
        print(f"egress-gateway-cni: {printable(str(error))}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        pass
    return DONE


@dataclass(frozen=True)
class Done:
    """The outcome of one installation."""

    lines: tuple[str, ...] = ()
    """Descriptions of the changes, or the reason for which the installer waits."""
    problems: tuple[Problem, ...] = ()
    chained: bool = True
    """False if a problem keeps the plugin from being used."""
    file: str = ""
    """Path of the file that has our entry; empty if there is none."""
    unsettled: bool = False
    """True if nothing was done because a file may be being written."""
    tried: bool = False
    """True if the entry is in two places until the runtime has reported which one it loads."""


def install(
    plugin: Path,
    bin_dir: Path,
    conf_dir: Path,
    entry: dict[str, Any],
    probe: PluginProbe,
    runtime: Runtime,
    settled: bool = True,
    network: str = "",
) -> Done:
    """Install and chain the plugin. Nothing is changed if all is in place. Raises OSError and :class:`NotChainable`.

    The plugin is installed before its entry: a runtime that reads the configuration must find the file. ``settled``:
    True if nothing has changed for a while. Otherwise another program may be writing an unloadable file, and the next
    file is not used instead. ``network``: see :func:`.conflist_text.in_use`.
    """
    if missing := _missing_directory(bin_dir, conf_dir):
        return Done((), (missing,), False)
    lines = []
    target = bin_dir / conflist_text.TYPE
    if probe.differs(plugin):
        replace_file(target, plugin.read_bytes(), 0o755)
        lines.append(f"{target}: installed")
    if reason := probe.failure():
        needed = ": Python 3.9 or later is needed, or --interpreter shipped" if probe.by_node() else ""
        hint = f"pods of this node start without it, and no policy selects them{needed}"
        return Done((*lines, *chaining.unchain(conf_dir)), (Problem(str(target), "", reason, hint),), False)
    found = conflist_text.in_use(*configurations(conf_dir), network)
    if found.skipped and not settled:
        return Done(tuple(lines), unsettled=True)
    if not found.name:
        awaited = f"no network {network or 'configuration'} yet"
        lines.append(f"{conf_dir}: {awaited}; the plugin is chained when there is one")
        return Done(tuple(lines), found.skipped)
    try:
        placed = chaining.chain(conf_dir / found.name, entry, runtime)
    except NotChainable as error:
        problem = Problem(str(conf_dir / found.name), "", error.message, error.hint)
        return Done(tuple(lines), (*found.skipped, problem), False)
    return Done((*lines, *placed.lines), found.skipped, file=str(placed.file), tried=placed.tried)


def _missing_directory(bin_dir: Path, conf_dir: Path) -> Problem | None:
    """Return the problem of a directory that does not exist; None if both do."""
    for option, directory in (("--bin-dir", bin_dir), ("--conf-dir", conf_dir)):
        if not directory.is_dir():
            return Problem(str(directory), "", "no such directory", f"{option} names it")
    return None


def remove(bin_dir: Path, conf_dir: Path) -> None:
    """Remove the plugin's entry, then the plugin. Raises OSError.

    The entry is removed first: a plugin that a configuration names must exist. A file that cannot be read is skipped:
    no runtime can use an entry in it.
    """
    _print_lines(chaining.unchain(conf_dir))
    target = bin_dir / conflist_text.TYPE
    with contextlib.suppress(FileNotFoundError):
        target.unlink()
        print(f"{target}: removed", flush=True)


def _once(options: argparse.Namespace, probe: PluginProbe, runtime: Runtime, settled: bool = True) -> Done:
    """Install, and write the report for the agent. ``settled``: see :func:`install`."""
    try:
        done = install(
            command_line.plugin_file(options),
            options.bin_dir,
            options.conf_dir,
            command_line.entry(options),
            probe,
            runtime,
            settled,
            options.network,
        )
    except NotChainable as error:
        done = Done((), (Problem(str(options.conf_dir), "", error.message, error.hint),), False)
    except (OSError, UnicodeDecodeError) as error:
        done = Done((), (Problem(str(options.conf_dir), "", str(error)),), False)
    if done.unsettled:
        return done
    text = conflist_text.report(Report(() if done.chained else done.problems, done.file))
    try:
        if not options.report.exists() or _read(options.report) != text:
            options.report.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(options.report, text.encode(), 0o600)
    except (OSError, UnicodeDecodeError) as error:
        done = replace(done, problems=(*done.problems, Problem("--report", "", str(error))))
    return done


def _once_for_all(options: argparse.Namespace) -> Done:
    """Install, and wait until the entry is in its final place. Changes are logged."""
    probe, runtime = PluginProbe(options.bin_dir / conflist_text.TYPE, options.host_root), _runtime(options)
    while True:
        done = _once(options, probe, runtime)
        _print_lines(done.lines)
        if not done.tried:
            return done
        time.sleep(SETTLE_S)


def _runtime(options: argparse.Namespace) -> Runtime:
    return Runtime(Path(options.cri_socket) if options.cri_socket else None)


def _watch(options: argparse.Namespace) -> None:
    """Install again after each change, until a signal ends the process. Errors are logged once and do not end it."""
    last: tuple[str, ...] = ()
    probe, runtime = PluginProbe(options.bin_dir / conflist_text.TYPE, options.host_root), _runtime(options)
    # The first process of a pid namespace receives only signals that it has a handler for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(DONE))
    changes, settled = _Changes(), True
    while True:
        try:
            # Before the files are read: a later change wakes the next wait.
            changes.follow(_watchable(options))
            done = _once(options, probe, runtime, settled)
            lines = (*done.lines, *map(str, done.problems))
        except Exception as error:
            done, lines = Done(), (f"{type(error).__name__}: {error}",)
        # A full disk or a closed output does not end the process either.
        with contextlib.suppress(OSError):
            _print_lines([line for line in lines if line not in last])
        last = lines
        settled = not changes.wait(SETTLE_S if done.unsettled or done.tried else POLL_INTERVAL_S)


class _Changes:
    """Changes in directories. If the kernel allows no watch, it polls instead."""

    def __init__(self) -> None:
        self._watched: object = None
        self._watch: inotify.Watch | None = None

    def follow(self, directories: tuple[tuple[Path, int, int], ...]) -> None:
        """Watch these directories from now on."""
        if directories == self._watched:
            return
        if self._watch is not None:
            self._watch.close()
        self._watch, self._watched = None, None
        with contextlib.suppress(OSError):
            self._watch = inotify.Watch(path for path, _, _ in directories)
            self._watched = directories

    def wait(self, seconds: float) -> bool:
        """Wait for a change. Return False if there was none in this time."""
        if self._watch is not None:
            with contextlib.suppress(OSError):
                return self._watch.wait(seconds)
            self._watched = self._watch = None
        time.sleep(seconds)
        return False


def _watchable(options: argparse.Namespace) -> tuple[tuple[Path, int, int], ...]:
    """Return (path, device, inode) of the directories to watch; for a missing one, its nearest existing parent."""
    links = [Path(os.path.realpath(path)).parent for path in options.conf_dir.glob("*") if path.is_symlink()]
    found = {}
    drop_ins = [path.parent for path in drop_in.here(options.conf_dir)]
    for path in (options.conf_dir, options.bin_dir, *links, *drop_ins):
        there = next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())
        found[there] = there.stat()
    return tuple((path, state.st_dev, state.st_ino) for path, state in sorted(found.items()))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _print_lines(lines: Sequence[str]) -> None:
    for line in lines:
        print(printable(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
