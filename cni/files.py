"""Replace files atomically, with errors that name the file. For plugin and agent."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Let an OSError name ``path`` if it names no file: one of a file being written, or a socket bound, does not."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def replace_file(
    path: Path,
    content: bytes,
    mode: int,
    before: str | None = None,
    *,
    sync: bool = True,
    several_writers: bool = False,
) -> bool:
    """Replace ``path`` with ``content`` and permissions ``mode``: a reader finds the old content or the new content.

    Return True if the file was replaced. ``before``: expected present content (UTF-8; other bytes as
    lone surrogates). If the file differs from it, nothing is written; else the file keeps its owner. ``sync``: write
    through to the disk, so that a power cut leaves the old content or the new one; False for a file that is made anew
    after a reboot. ``several_writers``: other processes may replace the same file at the same time. The draft has the
    suffix ``.draft``, so no runtime loads it as a configuration. Raises OSError.
    """
    draft = _draft(path, several_writers)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with named(path), open(descriptor, "wb") as file:
            file.write(content)
            if before is not None:
                _keep_owner(file.fileno(), path.stat())
            os.fchmod(file.fileno(), mode)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        if before is not None and path.read_text(encoding="utf-8", errors="surrogateescape") != before:
            draft.unlink()
            return False
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    return True


def _draft(path: Path, several_writers: bool) -> Path:
    """Return the path of a draft that does not exist."""
    if several_writers:
        # Pids do not distinguish processes of different pid namespaces. Without the name of the file, which may be as
        # long as the file system allows.
        return path.with_name(f".{os.urandom(8).hex()}.draft")
    draft = path.with_name(f".{path.name}.draft")
    # A killed process may have left a draft.
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    return draft


def _keep_owner(descriptor: int, was: os.stat_result) -> None:
    # Without CAP_CHOWN the agent becomes the owner. Refusing the change would leave pods without egress policy.
    with contextlib.suppress(PermissionError):
        if (was.st_uid, was.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(descriptor, was.st_uid, was.st_gid)
