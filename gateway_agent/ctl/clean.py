"""Implement ``egressctl clean``: remove all our objects from this node, if none of our programs runs there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from cni.calls.fallback import LOCK as PLUGIN_LOCK
from cni.contract import PLAN, PLAN_OUTDATED
from cni.datapath.reconcile import MAX_ROUNDS
from cni.kernel import ids, rtnl
from cni.kernel.diff import diff
from cni.kernel.netlink import links, veths
from cni.kernel.nftables import nft
from cni.kernel.state import KernelState

from ..adapters.kernel.borrowed_settings import BorrowedSettings
from ..adapters.netns_lock import NamespaceLock
from ..guard_file import GuardFile
from ..lease.ipc import LOCK as DAEMON_LOCK
from ..lease_daemon.kernel.vip_addresses import Addresses
from .client import NoAnswer
from .doctor import TABLES

RUNNING = {"agent.lock": "an agent", DAEMON_LOCK: "a lease daemon", PLUGIN_LOCK: "the plugin"}
"""Lock files of the run directory and their holders. They are not removed: a program may be about to lock them."""
FILES = (
    f".{PLAN}*", PLAN_OUTDATED, "agent.sock", ".agent.sock*", "last-known.json", "last-known.draft",
    ".last-known.json.draft", "last-good", "drained",
    "keeper.sock", "keeper.log", "keeper.log.1", "voters.json", ".voters.json", "conntrackd-*",
    "attachments", "cni", "connection-log.json",
)  # fmt: skip
"""Our other files in the run directory."""
LOCK_TIMEOUT_S = 1.0
"""Seconds to wait for a running plugin."""


def clean(run_dir: Path, state_dir: Path) -> Iterator[str]:
    """Remove everything, and yield a description of each removed object. It can be repeated after an interruption.

    The plan is removed first: a plugin that is still chained would use it to create everything again. Then the virtual
    addresses, then the steering: from then on packets use no gateway. Raises :class:`NoAnswer` if one of our programs
    runs, and :class:`~cni.kernel.errors.KernelError`.
    """
    with _stopped(run_dir):
        yield from _remove(run_dir, PLAN)
        yield from _kernel()
        if BorrowedSettings(run_dir).follow(()):
            yield "restored settings of other interfaces"
        for name in FILES:
            yield from _remove(run_dir, name)
        guard = GuardFile(state_dir)
        if guard.remove():
            yield f"removed {guard.path}"


def _remove(run_dir: Path, pattern: str) -> Iterator[str]:
    for path in sorted(run_dir.glob(pattern)):
        if path.is_dir() and not path.is_symlink():
            # A plugin that is still chained may be writing into the directory.
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        yield f"removed {path}"


def _kernel() -> Iterator[str]:
    with closing(Addresses()) as addresses:
        for address, interface in addresses.ours():
            addresses.remove(address, interface)
            yield f"removed virtual address {address} from {interface}"
    # A test that was killed may have left them.
    for number in range(veths.MAX_VETHS):
        if veths.remove(number):
            yield f"removed {ids.TEST_DEVICE}{number}"
    for device in sorted(links.tagged()):
        links.tag(device, 0)
        yield f"removed the tag of {device}"
    tables = nft.run("list", "tables").splitlines()
    for family, name in TABLES:
        if f"table {family} {name}" in tables:
            nft.run("delete", "table", family, name)
            yield f"removed nftables table {family} {name}"
    for _ in range(MAX_ROUNDS):
        changes = diff(rtnl.observe(), KernelState())
        refused = rtnl.apply(changes)
        yield from (str(change) for change in changes if change not in refused)
    if refused:
        raise next(iter(refused.values()))


@contextlib.contextmanager
def _stopped(run_dir: Path) -> Iterator[None]:
    """Hold the locks of agent, lease daemon and plugin, so that none of them starts meanwhile."""
    with contextlib.ExitStack() as stack:
        try:
            stack.callback(NamespaceLock().close)
        except OSError as error:
            raise NoAnswer(str(error), "stop the service first: it hands over its egress IPs") from error
        for name, who in RUNNING.items() if run_dir.is_dir() else ():
            lock = os.open(run_dir / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, lock)
            if not _taken(lock, LOCK_TIMEOUT_S if name == PLUGIN_LOCK else 0.0):
                hint = "stop the service first: it hands over its egress IPs"
                raise NoAnswer(f"{who} runs on this node: it holds {run_dir / name}", hint)
        yield


def _taken(lock: int, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
