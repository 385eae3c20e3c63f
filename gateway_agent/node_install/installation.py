"""Manage the files of an installation: versions under ``/opt/egress-gateway``, units, the link to ``egressctl``.

Each version has an environment of its own, and ``current`` links to the one in use, which the services name.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ..config import DEFAULT_PATH
from .file_changes import FileChanges, remove
from .services import Failed

THIS = Path(sys.prefix)
"""The environment of the version that runs this program."""
ROOT = Path("/opt/egress-gateway")
VERSIONS, CURRENT = ROOT / "versions", ROOT / "current"
PROGRAMS = CURRENT / "bin"
MADE = ROOT / "made"
"""File with the directories that an installation created, one in each line: they are removed if they are empty."""
UNIT_DIR = Path("/etc/systemd/system")
LINK = Path("/usr/local/bin/egressctl")
CNI_DIRECTORIES = (Path("/opt/cni/bin"), Path("/etc/cni/net.d"))
BY_HAND = ("bin", "include", "lib", "lib64", "pyvenv.cfg", "share")
"""Names in :data:`ROOT` of an installation by the steps of an earlier manual."""


def units() -> tuple[str, ...]:
    """Return the names of this version's units."""
    return tuple(sorted(path.name for path in (THIS / "share" / "systemd").glob("*.service")))


def current() -> Path | None:
    """Return the environment of the version in use; None if there is none."""
    if CURRENT.is_symlink():
        return CURRENT.resolve()
    return ROOT if (ROOT / "pyvenv.cfg").exists() else None


def put(changes: FileChanges) -> bool:
    """Make this version the current one, with its units. Return True if it was not. Raises OSError."""
    changed = changes.link(CURRENT, os.path.relpath(THIS, ROOT))
    changes.link(LINK, str(PROGRAMS / "egressctl"))
    for name in units():
        changed |= changes.put(UNIT_DIR / name, (THIS / "share" / "systemd" / name).read_bytes(), 0o644)
    return changed


def chain(changes: FileChanges, version: Path) -> None:
    """Install the plugin of a version, and add it to the CNI configuration. Raises :class:`Failed` and OSError."""
    for directory in CNI_DIRECTORIES:
        changes.make_directory(directory)
    with MADE.open("a", encoding="utf-8") as file:
        file.writelines(f"{path}\n" for path in changes.directories if path in _parents(CNI_DIRECTORIES))
    done = subprocess.run([version / "bin" / "egress-gateway-cni", "install"], check=False)
    if done.returncode:
        raise Failed("the plugin cannot be used on this node", "the lines above have the reason")


def _parents(paths: tuple[Path, ...]) -> set[Path]:
    return {each for path in paths for each in (path, *path.parents)}


def unchain(version: Path) -> None:
    """Remove the plugin and its entry in the CNI configuration."""
    subprocess.run([version / "bin" / "egress-gateway-cni", "remove"], check=False)


def remove_others() -> None:
    """Remove the versions that are not in use. Raises OSError."""
    for path in VERSIONS.iterdir():
        if not path.samefile(THIS):
            remove(path)
    for name in BY_HAND:
        remove(ROOT / name)


def remove_all(directories: tuple[Path, ...]) -> None:
    """Remove every file of the installation, including this program's. Raises OSError.

    ``directories``: the directories of the services' files.
    """
    made = MADE.read_text(encoding="utf-8").split() if MADE.exists() else []
    for path in (LINK, *(UNIT_DIR / name for name in units()), *directories, DEFAULT_PATH.parent, ROOT):
        if remove(path):
            print(f"removed {path}", flush=True)
    for directory in sorted(map(Path, made), reverse=True):
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
