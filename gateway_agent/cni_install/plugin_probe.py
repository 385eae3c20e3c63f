"""If the installed plugin can run on this node: a plugin that is chained and cannot run fails every pod's start."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
from pathlib import Path

OLDEST = (3, 9)
"""Of Python, that the plugin runs with."""
TIMEOUT_S = 10.0
"""Seconds that the plugin gets to answer."""
NOT_RUN = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ENOTDIR, errno.ELOOP)
"""How the kernel says that it runs no such file; other errors pass by."""
LINKS = 40
"""As many as Linux follows in one path."""
# As libcni asks for versions, in the environment that systemd gives to a runtime.
ENVIRONMENT = {
    "CNI_COMMAND": "VERSION", "CNI_NETNS": "dummy", "CNI_IFNAME": "dummy", "CNI_PATH": "dummy",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
}  # fmt: skip
_MINOR = re.compile(r"python3\.(\d+)")


class PluginProbe:
    """Run the plugin as a runtime does, again only after it or its interpreter has changed.

    With an interpreter of its own the plugin runs in a container as it does on the node. ``host_root``: the host's
    root directory, or its ``/usr`` alone, as this container sees it. A plugin that needs the node's interpreter would
    run with the container's, so the host's is looked up instead.
    """

    def __init__(self, target: Path, host_root: Path | None) -> None:
        self._target, self._host_root = target, host_root
        self._good: object = None
        """State of the files with which it ran."""
        self._same: object = None
        """State of the installed file and of its source when they were compared."""

    def differs(self, source: Path) -> bool:
        """Return True if the plugin has not the content of ``source``, or is no program. Raises OSError.

        They are compared anew only after one of them has changed: they have megabytes.
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
        """Return True if the plugin needs an interpreter of the node. Raises OSError."""
        return _interpreter(self._target) != self._target

    def failure(self) -> str:
        """Return why the plugin cannot run; empty if it can.

        Raises OSError, and TimeoutError if the plugin does not answer: a machine may be that busy.
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
        words = file.readline(256).split()
    first = words[0] if words else b""
    return Path(os.fsdecode(first[2:])) if first.startswith(b"#!") else target


def _state(path: Path) -> object:
    try:
        found = path.stat()
    except OSError as error:
        return error.errno
    # A mount without the right to run is in no field of a file.
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
    for _ in range(LINKS):
        seen = root / path.relative_to("/")
        if not os.path.lexists(root / path.parts[1]):
            # A link to what this container is not shown, as /etc/alternatives: nothing speaks against it.
            return ""
        if not seen.is_symlink():
            break
        path = Path(os.path.normpath(path.parent / os.readlink(seen)))
    if not seen.is_file() or not os.access(seen, os.X_OK):
        return f"the node has no {interpreter}"
    minor = _MINOR.fullmatch(path.name)
    if minor and (3, int(minor[1])) < OLDEST:
        return f"{interpreter} of the node is {path.name}, and 3.9 or later is needed"
    return ""
