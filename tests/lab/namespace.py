"""One network namespace: made, entered, emptied of processes and deleted."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

from .waiting import until

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[2]
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class CommandFailed(Exception):
    """A program that the lab needs ended with an error; the message has its own words."""


def run(
    argv: Sequence[str],
    text: str | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float = 30.0,
    accepted: Collection[int] = (0,),
) -> str:
    """Return the standard output of a program. Raises :class:`CommandFailed` if its exit code is not accepted."""
    done = subprocess.run(
        argv, input=text, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )
    if done.returncode not in accepted:
        message = (done.stderr or done.stdout).strip()
        raise CommandFailed(f"{' '.join(argv)}: exit {done.returncode}: {message}")
    return done.stdout


def existing(prefix: str) -> list[str]:
    """Names of the namespaces that begin with ``prefix``."""
    return sorted(path.name for path in Path("/run/netns").glob(f"{prefix}*"))


class Namespace:
    """The machine called ``name``: ``ip netns`` knows it by that."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = Path("/run/netns") / name

    def create(self, settings: Mapping[str, str] | None = None) -> None:
        """Make it, sets the sysctls ``settings`` (``net/ipv4/ip_forward: 1``) and brings ``lo`` up."""
        run(["ip", "netns", "add", self.name])
        self.sysctl(settings or {})
        self.ip("link set lo up")

    def delete(self) -> None:
        """Kills all that runs in it, then removes it. What is gone already is no error."""
        if self.path.exists():
            self.kill_all()
            run(["ip", "netns", "del", self.name])

    def ip(self, *lines: str) -> None:
        """Run ``ip`` commands in it, all in one process; stops at the first that fails."""
        run(["ip", "-netns", self.name, "-batch", "-"], text="\n".join(lines) + "\n")

    def run(
        self,
        *argv: str,
        text: str | None = None,
        environment: Mapping[str, str] | None = None,
        seconds: float = 30.0,
    ) -> str:
        """As :func:`run`, in the namespace."""
        return run(self.command(*argv), text=text, environment=environment, seconds=seconds)

    def command(self, *argv: str) -> list[str]:
        """Return the command line for ``argv`` in it. ``ip netns exec`` *becomes* the program: the pid is right."""
        return ["ip", "netns", "exec", self.name, *argv]

    def spawn(self, *argv: str, log: Path, reads: bool = False) -> subprocess.Popen[bytes]:
        """Start a program that outlives the caller; output to ``log``, or stdin and stdout as pipes."""
        with log.open("ab") as errors:
            out: int | IO[bytes] = subprocess.PIPE if reads else errors
            return subprocess.Popen(
                self.command(*argv),
                stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                cwd=REPOSITORY,
                start_new_session=True,
            )

    def inside(self, action: Callable[[], T]) -> T:
        """Return the result of ``action``, run inside the namespace by a thread of its own.

        A thread that enters a namespace ends there, so no failure on the way back can leave the caller in it.
        """

        def enter() -> T:
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                if _libc.setns(descriptor, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"cannot enter namespace {self.name}")
            finally:
                os.close(descriptor)
            return action()

        with ThreadPoolExecutor(max_workers=1) as pool:
            return pool.submit(enter).result()

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Return a socket of this machine, for use anywhere in the calling process."""
        return self.inside(lambda: socket.socket(family, kind, protocol))

    def sysctl(self, settings: Mapping[str, str]) -> None:
        """Set sysctls, by their path below ``/proc/sys``."""

        def write() -> None:
            for key, value in settings.items():
                Path("/proc/sys", key).write_text(value)

        self.inside(write)

    def pids(self) -> list[int]:
        """All processes whose main thread is in it."""
        return [int(pid) for pid in run(["ip", "netns", "pids", self.name]).split()]

    def kill_all(self) -> None:
        """Kills every process in it and waits until they are gone."""

        def gone() -> bool:
            pids = self.pids()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not pids

        until(gone, f"processes in {self.name} are gone")


@contextlib.contextmanager
def fresh(name: str) -> Iterator[Namespace]:
    """Yield an empty machine of this name, and delete it at the end. One that an earlier run left is replaced."""
    machine = Namespace(name)
    machine.delete()
    try:
        machine.create()
        yield machine
    finally:
        machine.delete()
