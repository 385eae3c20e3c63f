"""The files of a lease daemon in its run directory: lock, socket, log, and the file of the voter.

Another program may empty the directory, and a disk may be full: missing files are created again, once a second.
"""

from __future__ import annotations

from pathlib import Path

from ..lease.ipc import LOCK, LOG, SOCKET
from ..lease.voting.voter_set import Memory
from .daemon_lock import DaemonLock
from .ipc_server import AgentConnections
from .process import log_line, log_to
from .voter_state_file import VoterStateFile

VOTERS = "voters.json"
CHECK_NS = 1_000_000_000
"""Interval at which the run directory is checked."""


class RunDirectory:
    """The files of one daemon. ``problems``: errors of writing, by the name of the file."""

    def __init__(self, path: Path, agents: AgentConnections, lock: DaemonLock, stays: bool) -> None:
        """``stays``: the daemon runs in the foreground and has no log of its own."""
        self.problems: dict[str, str] = {}
        self.revision = 0
        """Number that grows whenever :attr:`problems` may have changed."""
        self._path = path
        self._agents = agents
        self._lock = lock
        self._stays = stays
        self._voters = VoterStateFile(path / VOTERS)
        self._remembered: Memory | None = None
        self._next_check = 0

    def load(self) -> Memory | None:
        """Return the voter's memory that an earlier daemon has stored; None: there is none that can be read."""
        return self._voters.load()

    def store(self, memory: Memory) -> None:
        """Store the voter's memory. A full disk is a problem, not an error."""
        self._remembered = memory
        try:
            self._voters.store(memory)
        except OSError as error:
            self.problems[VOTERS] = f"{self._path / VOTERS}: {error.strerror}"
            self.revision += 1
        else:
            self.revision += self.problems.pop(VOTERS, None) is not None

    def write_pid(self) -> None:
        """Write the process id into the lock. On a full disk only the id is missing; the leases are not affected."""
        try:
            self._lock.write()
        except OSError as error:
            self.problems[LOCK] = str(error)
        else:
            self.problems.pop(LOCK, None)
        self.revision += 1

    def check(self, now: int) -> None:
        """Create missing files again, once in :data:`CHECK_NS`."""
        if now < self._next_check:
            return
        self._next_check = now + CHECK_NS
        if self._agents.reachable():
            # Memory that a full disk could not take.
            if LOCK in self.problems:
                self.write_pid()
            if VOTERS in self.problems and self._remembered is not None:
                self.store(self._remembered)
            return
        try:
            self._make_again()
        except OSError as error:
            self.problems[SOCKET] = f"{self._path / SOCKET} is gone and cannot be made again: {error}"
        else:
            self.problems.pop(SOCKET, None)
            log_line(f"{self._path / SOCKET} was gone: listening there again")
        self.revision += 1

    def _make_again(self) -> None:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock.restore()
        self.write_pid()
        if self._remembered is not None:
            self.store(self._remembered)
        if not self._stays:
            log_to(self._path / LOG)
        # The socket last: an agent that finds the socket finds the other files, too.
        self._agents.listen_again()
