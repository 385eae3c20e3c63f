"""``egressctl clean``: takes away all that is ours on this node, when nothing of ours runs there any more."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from cni.contract import PLAN, PLAN_OUTDATED
from cni.datapath.reconcile import ROUNDS
from cni.fallback import LOCK as PLUGIN_LOCK
from cni.kernel import rtnl
from cni.kernel.diff import diff
from cni.kernel.netlink import links
from cni.kernel.nftables import nft
from cni.kernel.state import KernelState

from ..adapters.netns_lock import NamespaceLock
from ..lease.ipc import LOCK as KEEPER_LOCK
from ..lease_daemon.vip_addresses import Addresses
from .client import NoAnswer
from .doctor import TABLES

RUNNING = {"agent.lock": "an agent", KEEPER_LOCK: "a lease keeper", PLUGIN_LOCK: "the plugin"}
"""Who holds which file of the run directory. These stay: somebody may be about to lock them."""
FILES = (
    f".{PLAN}*", PLAN_OUTDATED, "agent.sock", ".agent.sock*", "last-known.json", "last-known.draft", "last-good",
    "drained", "keeper.sock", "keeper.log", "keeper.log.1", "voters.json", ".voters.json", "conntrackd-*",
    "attachments", "cni",
)  # fmt: skip
"""What we leave in the run directory beside the plan."""
LOCK_TIMEOUT_S = 1.0
"""Seconds for a plugin that is at work."""


def clean(run_dir: Path) -> Iterator[str]:
    """Says each thing that it has taken away. May be done again where it was broken off.

    The plan goes first: with it a plugin that is still chained would make everything stand again. Then the virtual
    addresses, then what steers: packets that were steered go their own way from then on. Raises :class:`NoAnswer`
    where something of ours runs, and :class:`~cni.kernel.errors.KernelError`.
    """
    with _stopped(run_dir):
        yield from _remove(run_dir, PLAN)
        yield from _kernel()
        for name in FILES:
            yield from _remove(run_dir, name)


def _remove(run_dir: Path, pattern: str) -> Iterator[str]:
    for path in sorted(run_dir.glob(pattern)):
        if path.is_dir() and not path.is_symlink():
            # A plugin that is still chained may be writing into it.
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        yield f"removed {path}"


def _kernel() -> Iterator[str]:
    with closing(Addresses()) as addresses:
        for address, interface in addresses.ours():
            addresses.remove(address, interface)
            yield f"removed virtual address {address} from {interface}"
    for device in sorted(links.tagged()):
        links.tag(device, 0)
        yield f"removed the tag of {device}"
    standing = nft.run("list", "tables").splitlines()
    for family, name in TABLES:
        if f"table {family} {name}" in standing:
            nft.run("delete", "table", family, name)
            yield f"removed nftables table {family} {name}"
    for _ in range(ROUNDS):
        changes = diff(rtnl.observe(), KernelState())
        rtnl.apply(changes)
        yield from map(str, changes)


@contextlib.contextmanager
def _stopped(run_dir: Path) -> Iterator[None]:
    """Holds what an agent, a keeper and the plugin hold while they work: none of them begins meanwhile."""
    with contextlib.ExitStack() as stack:
        try:
            stack.callback(NamespaceLock().close)
        except OSError as error:
            raise NoAnswer(str(error), "stop the service first: it hands over what it serves") from error
        for name, who in RUNNING.items() if run_dir.is_dir() else ():
            lock = os.open(run_dir / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, lock)
            if not _taken(lock, LOCK_TIMEOUT_S if name == PLUGIN_LOCK else 0.0):
                hint = "stop the service first: it hands over what it serves"
                raise NoAnswer(f"{who} runs on this node: it holds {run_dir / name}", hint)
        yield


def _taken(lock: int, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
