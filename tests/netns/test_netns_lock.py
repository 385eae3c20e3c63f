"""One agent for each network namespace, whatever directories it has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab.waiting import until

HOLD = (
    "import os, sys; sys.argv = ['held']; from gateway_agent.adapters import netns_lock;"
    "lock = netns_lock.NamespaceLock(); print(os.getpid(), *lock.problems, flush=True); sys.stdin.read()"
)
SQUAT = (
    "import os, socket, sys; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
    "s.bind(b'\\0egress-gateway-agent'); {listen}; print(os.getpid(), flush=True); sys.stdin.read()"
)
RESTART = (
    "import os, sys; from gateway_agent.adapters import netns_lock; lock = netns_lock.NamespaceLock();"
    "again = len(sys.argv) > 1; print(os.getpid(), *lock.problems, flush=True); sys.stdin.readline();"
    "lock.hand_over(); os.execv(sys.executable, [sys.executable, '-c', sys.orig_argv[2], 'again'])"
)


@contextmanager
def running(code: str, *prefix: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run Python code until the end of the block; yields its first line too."""
    command = [*prefix, sys.executable, "-c", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def refused() -> str:
    command = [sys.executable, "-c", HOLD]
    done = subprocess.run(command, capture_output=True, text=True, input="", check=False, timeout=30)
    return done.stderr.strip().rpartition("\n")[2]


def test_a_second_one_is_refused_with_the_holder_of_the_lock() -> None:
    with running(HOLD) as (first, pid):
        for _ in range(4):
            assert refused() == f"OSError: another agent runs in this network namespace: process {pid}"
        with running(HOLD, "unshare", "--net") as (_, other):
            assert other.isdecimal()
        first.kill()
        first.wait()
        with running(HOLD) as (_, after):
            assert after.isdecimal()


def test_a_restart_in_place_keeps_the_lock() -> None:
    with running(RESTART) as (process, pid):
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(3):
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline().strip() == pid
            assert f"process {pid}" in refused()


def test_a_user_without_rights_cannot_keep_an_agent_from_starting() -> None:
    if os.geteuid():
        raise AssertionError("needs root")
    for listen, who in (
        ("s.listen(1)", "process {pid} of user 65534"),
        ("0", "a process that does not listen"),
    ):
        with running(SQUAT.format(listen=listen)) as (_, pid), running(HOLD) as (_, said):
            assert f"is taken by {who.format(pid=pid)}" in said


def test_the_lock_is_free_when_its_holder_was_killed() -> None:
    with running(HOLD) as (first, _):
        first.kill()
        first.wait()
        until(lambda: refused() == "", "the kernel frees the name", 10)
