"""The kernel's connection table: the only place that runs ``conntrack``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .errors import KernelError

TIMEOUT = 20.0
"""Seconds. ``conntrack`` filters in C: a table of 100,000 entries takes 0.1 s."""
MARKED = {
    "sport": "--orig-port-src",
    "dport": "--orig-port-dst",
    "type": "--icmp-type",
    "code": "--icmp-code",
    "id": "--icmp-id",
}
"""What tells one connection from another beside its addresses, and the options that name it."""
_FIELD = re.compile(r"\b(src|dst|sport|dport|type|code|id)=(\S+)")


@dataclass(frozen=True)
class Connection:
    """As ``conntrack -L`` lists it."""

    family: str
    """``ipv4`` or ``ipv6``."""
    protocol: str
    source: str
    destination: str
    """As the first packet had it."""
    remote: str
    """Who answers: the destination behind a DNAT."""
    marks: tuple[tuple[str, str], ...]
    """Ports, or the fields of an ICMP query."""

    @property
    def options(self) -> list[str]:
        named = [part for name, value in self.marks for part in (MARKED[name], value)]
        addresses = ["--orig-src", self.source, "--orig-dst", self.destination]
        return ["-f", self.family, "-p", self.protocol, *addresses, *named]


def delete_connections(source: str, stale: Callable[[str], bool] = lambda remote: True) -> int:
    """Forgets what ``source`` opened to a ``remote`` for which ``stale`` holds; the next packet opens it anew.

    How many there were. Not TCP: its packets of another way are answered with a reset, which is what its ends need.
    """
    deleted = 0
    for connection in connections(source):
        if connection.protocol != "tcp" and stale(connection.remote):
            deleted += "1 flow entries have been deleted" in _conntrack("-D", *connection.options).stderr
    return deleted


def connections(source: str) -> tuple[Connection, ...]:
    """What ``source`` has opened."""
    family = "ipv6" if ":" in source else "ipv4"
    listed = _conntrack("-L", "-f", family, "--orig-src", source).stdout
    return tuple(_parsed(family, listed))


def _parsed(family: str, listed: str) -> Iterator[Connection]:
    for line in listed.splitlines():
        fields = _FIELD.findall(line)
        half = len(fields) // 2
        if half < 2 or len(fields) % 2:
            continue
        question, answer = dict(fields[:half]), dict(fields[half:])
        marks = tuple((name, question[name]) for name in MARKED if name in question)
        name, number, *_ = line.split()
        protocol = number if name == "unknown" else name
        yield Connection(family, protocol, question["src"], question["dst"], answer["src"], marks)


def _conntrack(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("conntrack", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if program is None:
        raise KernelError("conntrack: not found", "install conntrack")
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"conntrack: {error}") from error
    # It ends with 1 where it found nothing; only its last line tells that from a failure.
    if "flow entries have been" not in done.stderr:
        raise KernelError(f"conntrack: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done
