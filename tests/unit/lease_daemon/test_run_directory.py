"""The files of a lease daemon in its run directory, while another program removes them or nothing can be written."""

from __future__ import annotations

import selectors
import shutil
from pathlib import Path

import pytest

from gateway_agent.lease.ipc import LOCK, SOCKET
from gateway_agent.lease.voting.voter_set import Memory, VoterSet
from gateway_agent.lease_daemon.daemon_lock import DaemonLock
from gateway_agent.lease_daemon.ipc_server import AgentConnections
from gateway_agent.lease_daemon.run_directory import CHECK_NS, VOTERS, RunDirectory

MEMORY = Memory(VoterSet(3, ("a", "b", "c")), None, (7, "a"), 250, granted_until=1, learned_at=5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "run"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def directory(path: Path) -> RunDirectory:
    agents = AgentConnections(path / SOCKET, selectors.SelectSelector())
    made = RunDirectory(path, agents, DaemonLock(path / LOCK, wait=False), stays=True)
    made.write_pid()
    return made


def test_what_was_stored_is_loaded(directory: RunDirectory) -> None:
    assert directory.load() is None
    directory.store(MEMORY)
    assert directory.load() == MEMORY
    assert directory.problems == {}


@pytest.mark.parametrize("removed", [SOCKET, "everything"])
def test_what_another_program_removes_is_made_again_once_a_second(
    directory: RunDirectory, path: Path, removed: str
) -> None:
    directory.store(MEMORY)
    directory.check(0)
    pid = (path / LOCK).read_text()
    if removed == SOCKET:
        (path / SOCKET).unlink()
    else:
        shutil.rmtree(path)
    directory.check(CHECK_NS - 1)
    assert not (path / SOCKET).exists(), "it is not looked at more often"
    directory.check(CHECK_NS)
    assert (path / SOCKET).is_socket()
    assert (path / LOCK).read_text() == pid
    assert directory.load() == MEMORY
    assert directory.problems == {}


def test_a_directory_that_cannot_be_made_again_is_a_problem_until_it_can(
    directory: RunDirectory, path: Path
) -> None:
    shutil.rmtree(path)
    path.write_text("a file is in the way")
    directory.check(0)
    assert str(path / SOCKET) in directory.problems[SOCKET]
    before = directory.revision
    path.unlink()
    directory.check(CHECK_NS)
    assert SOCKET not in directory.problems
    assert directory.revision > before


def test_a_grant_that_cannot_be_stored_is_a_problem_and_stored_later(
    directory: RunDirectory, path: Path
) -> None:
    (path / VOTERS).mkdir()
    directory.store(MEMORY)
    assert str(path / VOTERS) in directory.problems[VOTERS]
    directory.check(0)
    assert VOTERS in directory.problems, "it is tried again, and fails again"
    (path / VOTERS).rmdir()
    directory.check(CHECK_NS)
    assert directory.problems == {}
    assert directory.load() == MEMORY
