"""What a container runtime has loaded, as far as it is known without asking it for ever."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway_agent.cni_install import runtime
from gateway_agent.cni_install.runtime import Runtime

LONG_AGO_S = 0.0
"""Time of the last change of a file that the runtime has loaded for sure."""


class Process:
    """A runtime that has a socket and answers nothing that is gRPC."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start()

    def start(self) -> None:
        """Make the socket anew, as a new process does."""
        before = os.stat(self.path).st_ctime_ns if self.path.exists() else 0
        self.path.unlink(missing_ok=True)
        # A clock of the file system may be coarse: the new socket must be known by another time.
        while True:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.bind(str(self.path))
            if os.stat(self.path).st_ctime_ns != before:
                return
            self._socket.close()
            self.path.unlink()

    def stop(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path / "cri.sock")
    yield process
    process.stop()


def test_without_a_socket_nothing_is_known_and_nothing_ruled_out(tmp_path: Path) -> None:
    for found in (Runtime(None), Runtime(tmp_path / "nothing")):
        assert found.loaded("net", "text") is None
        assert not found.loads_no_drop_ins()
        assert not found.loads_drop_ins(time.time())


def test_a_runtime_that_does_not_answer_is_not_known(process: Process) -> None:
    assert Runtime(process.path).loaded("net", "text") is None


def test_a_try_that_lasts_too_long_rules_drop_ins_out_until_the_runtime_starts_again(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "TRIED_S", 0.0)
    tried = Runtime(process.path)
    assert not tried.tries(), "no time is left for it"
    assert tried.loads_no_drop_ins()
    process.start()
    assert not tried.loads_no_drop_ins()


def test_a_try_goes_on_until_its_time_is_over(process: Process) -> None:
    tried = Runtime(process.path)
    assert tried.tries()
    assert tried.tries()
    assert not tried.loads_no_drop_ins()


def test_a_success_counts_for_this_process_of_the_runtime(process: Process) -> None:
    tried = Runtime(process.path)
    just_now = time.time()
    assert not tried.loads_drop_ins(just_now)
    tried.tried(True)
    assert tried.loads_drop_ins(just_now)
    process.start()
    assert not tried.loads_drop_ins(just_now)
    assert tried.loads_drop_ins(LONG_AGO_S), (
        "the network's own file is older than any load that could be under way"
    )


def test_a_failed_try_is_no_success(process: Process) -> None:
    tried = Runtime(process.path)
    tried.tried(True)
    tried.tried(False)
    assert not tried.loads_drop_ins(time.time())
