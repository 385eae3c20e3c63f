"""The cluster key: a file that every node has in common."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from pathlib import Path

LENGTH = 32


def provide(path: Path) -> str:
    """Makes the key file (mode 0600) where there is none; says what the owner should know, or nothing.

    Raises OSError where it can be neither read nor made.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_hex(LENGTH).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            # A link, not a rename: of two agents that start at once, one makes the key and both read it.
            os.link(temporary, path)
        except FileExistsError:
            pass
        else:
            return f"{path} was missing and has been made: copy it to every node"
        finally:
            os.unlink(temporary)
    status = path.stat()
    if status.st_size < LENGTH // 2:
        raise OSError(f"{path}: a key of {LENGTH // 2} bytes or more is needed")
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return f"{path} can be read by others than its owner: chmod 600 {path}"
    return ""
