"""Replace a file atomically: a reader finds the old content or the new content."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def replace_file(
    path: Path, content: bytes, mode: int, before: str | None = None, *, sync: bool = True
) -> bool:
    """Replace ``path`` with ``content`` and permissions ``mode``: all or nothing.

    Return True if the file was replaced. ``before``: expected present content (text, UTF-8). If the file differs from
    it, nothing is written; else the file keeps its owner. ``sync``: write through to the disk, so that a power cut
    leaves the old content or the new one; False for a file that is made anew after a reboot. The draft has the suffix
    ``.draft``, so no runtime loads it as a configuration. Raises OSError.
    """
    draft = path.with_name(f".{path.name}.draft")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            if before is not None:
                _keep_owner(file.fileno(), path.stat())
            os.fchmod(file.fileno(), mode)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        if before is not None and path.read_text(encoding="utf-8") != before:
            draft.unlink()
            return False
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        # An OSError from write() or fsync() names no path.
        raise error if error.filename else OSError(error.errno, error.strerror, str(path)) from None
    return True


def _keep_owner(descriptor: int, was: os.stat_result) -> None:
    # Without CAP_CHOWN the agent becomes the owner. Refusing the change would leave pods without egress policy.
    with contextlib.suppress(PermissionError):
        if (was.st_uid, was.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(descriptor, was.st_uid, was.st_gid)
