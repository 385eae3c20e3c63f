"""One lease daemon for each run directory, also if its lock file is removed."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from gateway_agent.lease_daemon.daemon_lock import DaemonLock, Taken


def let_go(lock: DaemonLock) -> None:
    """Release a lock, as the end of its process does."""
    os.close(lock._file)
    if lock._name is not None:
        lock._name.close()


def test_a_second_daemon_finds_the_lock_taken(tmp_path: Path) -> None:
    lock = DaemonLock(tmp_path / "keeper.lock", wait=False)
    with pytest.raises(Taken):
        DaemonLock(tmp_path / "keeper.lock", wait=False)
    another = DaemonLock(tmp_path / "another.lock", wait=False)
    let_go(another)
    let_go(lock)
    let_go(DaemonLock(tmp_path / "keeper.lock", wait=False))


def test_a_lock_file_that_was_removed_lets_no_second_daemon_in(tmp_path: Path) -> None:
    path = tmp_path / "keeper.lock"
    lock = DaemonLock(path, wait=False)
    path.unlink()
    with pytest.raises(Taken):
        DaemonLock(path, wait=False)
    lock.restore()
    lock.write()
    assert int(path.read_text()) == os.getpid()
    let_go(lock)


def test_a_waiting_daemon_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    path = tmp_path / "keeper.lock"
    lock = DaemonLock(path, wait=False)
    taken = threading.Event()

    def wait() -> None:
        let_go(DaemonLock(path, wait=True))
        taken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not taken.wait(0.2)
    let_go(lock)
    assert taken.wait(20)
    thread.join()


def test_a_process_id_is_written_over_a_longer_one(tmp_path: Path) -> None:
    path = tmp_path / "keeper.lock"
    path.write_text("1234567890\n")
    lock = DaemonLock(path, wait=False)
    lock.write()
    assert int(path.read_text()) == os.getpid()
    let_go(lock)
