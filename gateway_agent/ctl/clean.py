"""``egressctl clean``: takes away all that is ours on this node, when nothing of ours runs there any more."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from cni.ensure import ROUNDS
from cni.kernel import netlink, nft
from cni.kernel.diff import diff
from cni.kernel.state import KernelState

from ..core.keeping import LOCK
from ..shell.addresses import Addresses
from .client import NoAnswer
from .doctor import TABLES

AGENT_LOCK = "agent.lock"


def clean(run_dir: Path) -> Iterator[str]:
    """Says each thing that it has taken away. May be done again where it was broken off.

    The plan goes first: a plugin that is still chained would make everything stand again. Then what virtual addresses
    hang on, then what steers: packets that were steered go their own way from then on. Raises :class:`NoAnswer` where
    an agent or a lease keeper runs, and :class:`~cni.kernel.errors.KernelError`.
    """
    with _stopped(run_dir):
        for path in sorted(run_dir.iterdir()) if run_dir.is_dir() else ():
            if path.name not in (LOCK, AGENT_LOCK):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                yield f"removed {path}"
        yield from _kernel()


def _kernel() -> Iterator[str]:
    with closing(Addresses()) as addresses:
        for address, interface in addresses.ours():
            addresses.remove(address, interface)
            yield f"removed virtual address {address} from {interface}"
    for device in sorted(netlink.tagged()):
        netlink.tag(device, 0)
        yield f"removed the tag of {device}"
    standing = nft.run("list", "tables").splitlines()
    for family, name in TABLES:
        if f"table {family} {name}" in standing:
            nft.run("delete", "table", family, name)
            yield f"removed nftables table {family} {name}"
    for _ in range(ROUNDS):
        changes = diff(netlink.observe(), KernelState())
        netlink.apply(changes)
        yield from map(str, changes)


@contextlib.contextmanager
def _stopped(run_dir: Path) -> Iterator[None]:
    """Holds what an agent and a keeper hold while they run."""
    with contextlib.ExitStack() as stack:
        for name, who in ((AGENT_LOCK, "an agent"), (LOCK, "a lease keeper")):
            try:
                lock = stack.enter_context((run_dir / name).open("rb"))
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                hint = "stop the service first: it hands over what it serves"
                raise NoAnswer(f"{who} runs on this node: it holds {run_dir / name}", hint) from None
        yield
        for name in (AGENT_LOCK, LOCK):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(run_dir / name)
