"""The kernel's connection table: the only place that runs ``conntrack``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Callable

from .errors import KernelError

TIMEOUT_S = 20.0
"""Time limit of one run. ``conntrack`` filters in C: a table of 100,000 entries takes 0.1 s."""
MAX_SINGLE_SOURCES = 4
"""Sources that are asked for one by one; a listing of all of them costs as much as some runs of the program."""
MAX_TRIES = 5
"""Runs of the program while other programs delete what it has just listed."""
GONE = "such conntrack doesn't exist"
"""Message of a run that ends at a connection which is gone: connections behind it are left undone."""
ENDED = frozenset({"TIME_WAIT", "CLOSE"})
"""States of TCP connections that both ends have closed."""
_FIELD = re.compile(r"\b(src|dst)=(\S+)")


@dataclass(frozen=True)
class Flow:
    """All connections of one protocol that one address opened to another."""

    protocol: str
    """A name, or a number if ``conntrack`` has no name for it."""
    remote: str
    """Address of the end that answers: the destination behind a DNAT."""


def delete_connections(stale: Mapping[str, Callable[[str], bool]]) -> int:
    """Delete the connections that each source opened to a remote address for which its function returns True.

    Returns their number. The next packet opens a connection anew. TCP is left out: rules answer its packets on another
    path with a reset, which is what its ends need. Raises :class:`KernelError`.
    """
    deleted = 0
    for source, flow in sorted(_opened(stale), key=str):
        if flow.protocol != "tcp" and stale[source](flow.remote):
            between = ("--orig-src", source, "--reply-src", flow.remote)
            counted = _conntrack("-D", "-f", _family(source), "-p", flow.protocol, *between).stderr
            deleted += int(counted.split(" flow entries have been")[0].split()[-1])
    return deleted


def _opened(sources: Collection[str]) -> Iterator[tuple[str, Flow]]:
    """Yield source and flow of what these have opened; the program filters for few sources, one listing has many."""
    if len(sources) <= MAX_SINGLE_SOURCES:
        for source in sources:
            yield from ((source, flow) for flow in flows(source))
        return
    for family in sorted({_family(source) for source in sources}):
        listed = _conntrack("-L", "-f", family).stdout
        yield from {(source, flow) for source, flow in _parsed(listed) if source in sources}


def open_connections(sources: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Return source and remote address of each connection that one of ``sources`` has opened and that is still open.

    The remote address is the end that answers. Raises :class:`KernelError`.
    """
    found: list[tuple[str, str]] = []
    for family in sorted({_family(source) for source in sources}):
        for line in _conntrack("-L", "-f", family).stdout.splitlines():
            ended = ENDED.intersection(line.split()[:4])
            found += [(s, flow.remote) for s, flow in _parsed(line) if s in sources and not ended]
    return tuple(found)


def delete_shown(address: str, mark: int) -> None:
    """Delete the connections with all bits of ``mark`` that are SNATed to this address. Raises :class:`KernelError`."""
    _conntrack("-D", "-f", _family(address), "--mark", f"{mark:#x}/{mark:#x}", "--reply-dst", address)


def flows(source: str) -> frozenset[Flow]:
    """Return what ``source`` has opened: a pod may have thousands of connections, but few partners."""
    listed = _conntrack("-L", "-f", _family(source), "--orig-src", source).stdout
    return frozenset(flow for _, flow in _parsed(listed))


def _family(address: str) -> str:
    return "ipv6" if ":" in address else "ipv4"


def _parsed(listed: str) -> Iterator[tuple[str, Flow]]:
    """Yield source and flow of each line."""
    for line in listed.splitlines():
        addresses = _FIELD.findall(line)
        if len(addresses) == 4:
            name, number, *_ = line.split()
            yield addresses[0][1], Flow(number if name == "unknown" else name, addresses[2][1])


def _conntrack(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("conntrack", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if program is None:
        raise KernelError("conntrack: not found", "install conntrack")
    for _ in range(MAX_TRIES):
        try:
            done = subprocess.run(
                [program, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise KernelError(f"conntrack: {error}") from error
        if GONE not in done.stderr:
            break
    # Its exit code is 1 if it found nothing; only its last line distinguishes that from a failure.
    if "flow entries have been" not in done.stderr:
        raise KernelError(f"conntrack: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done
