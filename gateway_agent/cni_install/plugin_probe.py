"""Check if the installed plugin can run on this node: a chained plugin that cannot run fails every pod start."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
from pathlib import Path

MIN_PYTHON = (3, 9)
"""Oldest Python version that runs the plugin."""
TIMEOUT_S = 10.0
"""Seconds for the plugin's answer."""
NOT_RUN = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ENOTDIR, errno.ELOOP)
"""Errors of execve() that are permanent for a file; other errors are temporary."""
MAX_LINKS = 40
"""Symbolic links that Linux follows in one path."""
# The request for versions of libcni, with the PATH that systemd gives to a runtime.
ENVIRONMENT = {
    "CNI_COMMAND": "VERSION", "CNI_NETNS": "dummy", "CNI_IFNAME": "dummy", "CNI_PATH": "dummy",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
}  # fmt: skip
_MINOR = re.compile(r"python3\.(\d+)")


class PluginProbe:
    """A test run of the plugin, as a runtime does it; repeated only after the plugin or its interpreter has changed.

    ``host_root``: the host's root directory, or its ``/usr`` alone, in the view of this container; None outside of a
    container. A plugin with its own interpreter runs in a container as on the node. A plugin that needs the node's
    interpreter would run with the container's, so the host's interpreter is looked up instead.
    """

    def __init__(self, target: Path, host_root: Path | None) -> None:
        self._target, self._host_root = target, host_root
        self._good: object = None
        """State of the files at the last successful run."""
        self._same: object = None
        """State of the installed file and of its source when both were last found equal."""

    def differs(self, source: Path) -> bool:
        """Return True if the plugin differs from ``source`` or is not executable. Raises OSError.

        The files have megabytes, so they are compared again only after one of them has changed.
        """
        states = (_state(self._target), _state(source), source)
        if states == self._same:
            return False
        content = source.read_bytes()
        if not (
            self._target.exists()
            and self._target.stat().st_mode & stat.S_IXUSR
            and self._target.read_bytes() == content
        ):
            return True
        self._same = states
        return False

    def by_node(self) -> bool:
        """Return True if the plugin needs the node's interpreter. Raises OSError."""
        return _interpreter(self._target) != self._target

    def failure(self) -> str:
        """Return the reason why the plugin cannot run; empty if it can.

        Raises OSError, and TimeoutError if the plugin does not answer, which may be due to a busy machine.
        """
        interpreter = _interpreter(self._target)
        if self._host_root is not None and interpreter != self._target:
            return _looked_up(self._host_root, interpreter)
        state = (_state(self._target), _state(interpreter))
        if state == self._good:
            return ""
        if not (found := _tried(self._target, interpreter)):
            self._good = state
        return found


def _interpreter(target: Path) -> Path:
    with target.open("rb") as file:
        fields = file.readline(256).split()
    first = fields[0] if fields else b""
    return Path(os.fsdecode(first[2:])) if first.startswith(b"#!") else target


def _state(path: Path) -> object:
    try:
        found = path.stat()
    except OSError as error:
        return error.errno
    # A mount with noexec shows in no field of a file's status.
    runs = os.access(path, os.X_OK)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode, runs


def _tried(target: Path, interpreter: Path) -> str:
    try:
        done = subprocess.run(
            [target],
            input=b'{"cniVersion": "1.0.0"}',
            env=ENVIRONMENT,
            cwd="/",
            capture_output=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"{target}: no answer to CNI_COMMAND=VERSION within {TIMEOUT_S:g} s") from None
    except OSError as error:
        if error.errno not in NOT_RUN:
            raise
        where = "" if interpreter == target else f" with {interpreter}"
        return f"it cannot run{where}: {error.strerror}"
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = None
    if done.returncode or not isinstance(answer, dict) or "supportedVersions" not in answer:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = ", ".join((f"exit code {done.returncode}", *said[-1:]))
        return f"it does not answer CNI_COMMAND=VERSION: {why}"
    return ""


def _looked_up(root: Path, interpreter: Path) -> str:
    path = interpreter
    for _ in range(MAX_LINKS):
        seen = root / path.relative_to("/")
        if not os.path.lexists(root / path.parts[1]):
            # A link to a directory that is not mounted here, as /etc/alternatives: assume that it is right.
            return ""
        if not seen.is_symlink():
            break
        path = Path(os.path.normpath(path.parent / os.readlink(seen)))
    if not seen.is_file() or not os.access(seen, os.X_OK):
        return f"the node has no {interpreter}"
    minor = _MINOR.fullmatch(path.name)
    if minor and (3, int(minor[1])) < MIN_PYTHON:
        return f"{interpreter} of the node is {path.name}, and 3.9 or later is needed"
    return ""
