"""``install.sh install`` in a clone, on a node whose own Python is too old: it names packages, and changes nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from ..lab.namespace import REPOSITORY

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a mount namespace")

OLDER = '#!/bin/sh\ncase "$2" in *">="*) exit 0;; *) exit 1;; esac\n'
"""A Python before 3.11, as the script asks for its version."""
UNSHARED = ("unshare", "--mount", "--propagation", "private", "bash", "-ec")
TOOLS = (
    "bash",
    "env",
    "dirname",
    "cat",
    "find",
    "grep",
    "sort",
    "sha256sum",
    "cut",
    "rm",
    "rmdir",
    "sh",
    "nft",
)
"""Programs of the node. Every other program, Python above all, is not in its path."""
SCRIPT = """
older=$1 tools=$2; shift 2
mount -t tmpfs tmpfs /opt
mount --bind "$older" "$(readlink -f /usr/bin/python3)"
PATH=$tools exec "$@"
"""


def attempt(directory: Path, manager: str, copy: Path) -> subprocess.CompletedProcess[str]:
    """Run the script of ``copy`` on a node that has this package manager."""
    older, tools = directory / "python3", directory / "tools"
    older.write_text(OLDER)
    older.chmod(0o755)
    tools.mkdir()
    for name in TOOLS:
        found = next(Path(at, name) for at in ("/usr/sbin", "/usr/bin") if Path(at, name).exists())
        (tools / name).symlink_to(found)
    if manager:
        (tools / manager).write_text("#!/bin/sh\nexit 100\n")
        (tools / manager).chmod(0o755)
    # The script adds these to its path.
    hidden = "mount -t tmpfs tmpfs /sbin; " if not Path("/sbin").is_symlink() else ""
    command: Sequence[str] = (str(copy / "install.sh"), "install", "--config", "agent.yaml")
    return subprocess.run(
        (*UNSHARED, hidden + SCRIPT, "bash", str(older), str(tools), *command),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a directory with the script, as in a clone."""
    made = tmp_path / "copy"
    (made / "packaging").mkdir(parents=True)
    for name in ("install.sh", "packaging/node.sh"):
        (made / name).write_bytes((REPOSITORY / name).read_bytes())
    (made / "install.sh").chmod(0o755)
    return made


@pytest.mark.parametrize(
    ("manager", "message"),
    [
        ("dnf", "missing, install them first: dnf install python3.11"),
        ("", "missing, install them first: python3.11"),
        ("apt-get", "python3.11 python3.11-venv"),
    ],
)
def test_the_packages_with_a_newer_python_are_named(
    tmp_path: Path, copy: Path, manager: str, message: str
) -> None:
    done = attempt(tmp_path, manager, copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert message in done.stderr
    assert "command not found" not in done.stderr
    assert "Traceback" not in done.stderr
