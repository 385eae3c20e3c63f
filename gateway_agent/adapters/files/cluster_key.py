"""Create and check the file of the cluster key, which all nodes share."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cni.files import named

from ...manifests.model import Problem
from .key_files import read

KEY_BYTES = 32
HOW = (
    "copy the key file of another node there (mode 0600); for the first node of a cluster create one: "
    "(umask 077; openssl rand -hex 32 > FILE)"
)


class KeyFiles:
    """The key file of the configuration, and those that are accepted beside it."""

    def __init__(self, path: Path, accepted: Sequence[Path]) -> None:
        self._path = path
        self._accepted = tuple(accepted)

    def make(self) -> bool:
        """Create the key file if there is none. Return True if it was created. Raises OSError."""
        return make(self._path)

    def problems(self) -> tuple[Problem, ...]:
        """Return the problems of the key files."""
        accepted = (problem for path in self._accepted for problem in problems(path, accepted=True))
        return (*problems(self._path), *accepted)


def make(path: Path) -> bool:
    """Create the key file (mode 0600) if there is none. Return True if it was created. Raises OSError.

    Not by :func:`cni.files.replace_file`: an existing key must not be replaced.
    """
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with named(path), os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_hex(KEY_BYTES).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        # link() fails if the file exists, rename() would not: if two agents start at once, one key wins.
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True


def problems(path: Path, accepted: bool = False) -> tuple[Problem, ...]:
    """Return the problems of a key file: missing, unreadable, invalid, readable by others, owned by another user.

    ``accepted``: the file is one of ``acceptKeyFiles``.
    """
    source = str(path)
    try:
        status = path.stat()
        read(source)
    except FileNotFoundError:
        if accepted:
            message = "is named in cluster.acceptKeyFiles and missing: messages with its key are refused"
            return (Problem(source, "", message, "create it, or remove it from acceptKeyFiles"),)
        return (Problem(source, "", "the cluster key is missing: this node exchanges no leases", HOW),)
    except OSError as error:
        return (Problem(source, "", f"the cluster key cannot be read: {error.strerror}", HOW),)
    except ValueError as error:
        return (Problem(source, "", str(error).removeprefix(f"{source}: "), HOW),)
    found = []
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        found.append(Problem(source, "", f"the cluster key has mode {mode}: not only its owner can use it",
                             f"chmod 600 {path}"))  # fmt: skip
    if status.st_uid not in (0, os.geteuid()):
        found.append(
            Problem(source, "", f"the cluster key belongs to user {status.st_uid}", f"chown root {path}")
        )
    return tuple(found)
