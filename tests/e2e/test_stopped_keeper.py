"""A master's lease daemon stops for longer than its lease, at random instants and right before it speaks.

What it says when it goes on (a fence that it was about to open, an address that it was about to announce) is what it
has computed before, while another node has become master. Only the kernel's fence can keep it silent.
``DAEMON_STOPS`` and ``DAEMON_HELD_UP`` in the environment give more or fewer of both.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..bench.virtual import ALONE_MS, RECOVERY_S, prepare
from ..lab import topology
from ..lab.lab import Lab
from ..lab.topology import VIRTUAL
from ..lab.waiting import until
from ..lab.watch import Watch
from .conftest import BACKEND, GATEWAY, LOGS

STOPS = int(os.environ.get("DAEMON_STOPS", "8"))
RUNS_FOR = (1, 400)
"""Milliseconds from one stop to the next."""
STOPPED_FOR = (300, 600)
"""Milliseconds, longer than a lease (250)."""
HELD_UP = int(os.environ.get("DAEMON_HELD_UP", "2"))
"""Number of times, at least, that the daemon is stopped right before it writes a ticket, and right before it opens."""
TOO_MANY = 60
WRITES = {"ticket": "0x10 0xa0c 0x11", "opening": "0x10 0xa0e 0xa0c 0x11"}
"""Types of netlink messages: a batch's begin, NFT_MSG_DELSETELEM, NFT_MSG_NEWSETELEM, the end. To open the fence is to
take a ticket away and to write an address, in one batch."""
NETFILTER = 12
"""NETLINK_NETFILTER of <linux/netlink.h>."""


@pytest.fixture(scope="module")
def lab(plugin: Path) -> Iterator[Lab]:
    with Lab(topology.separate(workers=1)) as made:
        try:
            prepare(made, GATEWAY)
            made.nodes["w1"].pod("backend-1", BACKEND)
            yield made
        finally:
            made.save_logs(LOGS / "test_stopped_keeper")


@contextmanager
def watching(lab: Lab) -> Iterator[Watch]:
    with Watch(lab, [VIRTUAL], list(lab.nodes["w1"].pods.values())) as watch:
        yield watch
        assert watch.end() == []


def keeper(lab: Lab, watch: Watch) -> tuple[str, int]:
    """Return the only owner, and its keeper's pid."""
    owner = until(lambda: watch.owner(ALONE_MS), "exactly one owner", RECOVERY_S)
    [pid] = lab.nodes[owner].agent.keeper_pids()
    return owner, pid


def wait(milliseconds: float) -> None:
    end = time.monotonic() + milliseconds / 1000
    until(lambda: time.monotonic() > end, "it has lasted")


def test_at_random_instants(lab: Lab) -> None:
    seed = time.time_ns() % 1_000_000
    print(f"seed {seed}")
    source = random.Random(seed)
    with watching(lab) as watch:
        for _ in range(STOPS):
            _, pid = keeper(lab, watch)
            wait(source.uniform(*RUNS_FOR))
            os.kill(pid, signal.SIGSTOP)
            try:
                wait(source.uniform(*STOPPED_FOR))
            finally:
                os.kill(pid, signal.SIGCONT)
            until(lambda: watch.alone(ALONE_MS), "exactly one owner", RECOVERY_S)
        until(watch.passes, "traffic passes", RECOVERY_S)
        # A stop that is longer than what is left of a lease moves the address.
        assert len(watch.failovers()) > STOPS / 2


def test_right_before_it_writes_to_the_fence(lab: Lab) -> None:
    """Strace holds it up at the entry of the system call."""
    seed = time.time_ns() % 1_000_000
    print(f"seed {seed}")
    source = random.Random(seed)
    held_up: Counter[str] = Counter()
    with watching(lab) as watch:
        while min(held_up[kind] for kind in WRITES) < HELD_UP and held_up.total() < TOO_MANY:
            _, pid = keeper(lab, watch)
            held_up[hold_up(lab, pid, source.randint(1, 8), source.uniform(*STOPPED_FOR))] += 1
            until(lambda: watch.alone(ALONE_MS), "exactly one owner", RECOVERY_S)
        until(watch.passes, "traffic passes", RECOVERY_S)
        assert watch.failovers()
    assert min(held_up[kind] for kind in WRITES) >= HELD_UP, held_up


def hold_up(lab: Lab, pid: int, number: int, milliseconds: float) -> str:
    """Delays the so many-th transaction of a keeper from now on; returns its kind, or else the call."""
    log = lab.directory / "strace.log"
    delayed = f"inject=sendto:delay_enter={milliseconds * 1000:.0f}:when={number}"
    program = ["strace", "-p", str(pid), "-P", netfilter(pid), "-e", "trace=sendto", "-e", delayed]
    with subprocess.Popen(
        [*program, "-e", "abbrev=none", "-o", str(log)], stderr=subprocess.DEVNULL
    ) as strace:
        try:
            call = until(lambda: _delayed(log), "a call was delayed", RECOVERY_S)
        finally:
            # It detaches, and the process goes on.
            strace.terminate()
            strace.wait(timeout=10)
            log.unlink(missing_ok=True)
    types = " ".join(re.findall(r"nlmsg_type=(0x[0-9a-f]+)", call))
    return next((kind for kind, pattern in WRITES.items() if re.fullmatch(pattern, types)), call)


def netfilter(pid: int) -> str:
    """Return the socket by which a keeper speaks to nftables, as its file descriptor is named."""
    table = [line.split() for line in Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:]]
    inodes = {row[-1] for row in table if int(row[1]) == NETFILTER}
    links = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    [found] = links & {f"socket:[{inode}]" for inode in inodes}
    return found


def _delayed(log: Path) -> str:
    found = re.search(r"^(.*)\(DELAYED\)$", log.read_text() if log.exists() else "", re.MULTILINE)
    return found[1] if found else ""
