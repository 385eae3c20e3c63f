"""Where labs stand on this machine, who owns them, and how they are cleared away.

A lab is a directory and the namespaces whose names begin with the directory's name. Its owner holds a lock in
it: where the lock is free the owner is gone, and the next lab clears away what it left (unless it was kept).
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .namespace import Namespace, existing

ROOT = Path("/run/egress-gateway-lab")
_KEPT = "kept"
_OWNER = "owner.lock"
_serial = itertools.count(1)


def claim() -> tuple[Path, IO[str]]:
    """Return a directory for a new lab, and the lock that says it is in use: close it to let go."""
    with _exclusive():
        directory = ROOT / f"egw-{os.getpid()}-{next(_serial)}"
        if directory.exists():
            _remove(directory)
        directory.mkdir(mode=0o700)
        lock = (directory / _OWNER).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    return directory, lock


def keep(directory: Path) -> None:
    """Keep the lab after its owner has ended, until :func:`sweep` removes kept labs, too."""
    (directory / _KEPT).touch()


def remove(directory: Path) -> None:
    """Kills the lab's processes and deletes its namespaces and files. May be called twice."""
    with _exclusive():
        _remove(directory)


def sweep(kept: bool = False) -> list[str]:
    """Clear away labs whose owner is gone, those that were kept only on ``kept``. Returns their names."""
    with _exclusive():
        found = [d for d in sorted(ROOT.iterdir()) if d.is_dir() and _abandoned(d)]
        cleared = [directory for directory in found if kept or not (directory / _KEPT).exists()]
        for directory in cleared:
            _remove(directory)
    return [directory.name for directory in cleared]


def _remove(directory: Path) -> None:
    for name in existing(f"{directory.name}-"):
        Namespace(name).delete()
    shutil.rmtree(directory, ignore_errors=True)


def _abandoned(directory: Path) -> bool:
    try:
        with (directory / _OWNER).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    return True


@contextmanager
def _exclusive() -> Iterator[None]:
    """One process at a time claims or clears: else a sweep could take a lab that is just being made."""
    ROOT.mkdir(mode=0o700, exist_ok=True)
    with (ROOT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
