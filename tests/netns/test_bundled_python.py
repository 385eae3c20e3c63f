"""The interpreter of the bundle, in a root file system that has nothing else."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

from ..lab.namespace import REPOSITORY, run

VERSION = "0123456789ab"
HOME = f"/opt/egress-gateway/versions/{VERSION}"
NEEDED = ("asyncio", "ctypes", "hashlib", "sqlite3", "ssl", "venv", "zoneinfo")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root file system with the unpacked interpreter of a version, as ``packaging/node.sh`` unpacks it."""
    root, archive = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("built") / "python.tar.gz"
    run(
        ["/usr/bin/python3", str(REPOSITORY / "packaging/build_interpreter.py"), "--output", str(archive)],
        seconds=300,
    )
    (root / "proc").mkdir()
    home = root / HOME[1:]
    home.mkdir(parents=True)
    with tarfile.open(archive) as unpacked:
        unpacked.extractall(home)
    [program] = (home / "python/bin").iterdir()
    content = program.read_bytes()
    assert content.count(b"@" * 12) == 1
    program.write_bytes(content.replace(b"@" * 12, VERSION.encode()))
    return root


def python(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the interpreter where the root file system has nothing else, but for ``/proc``."""
    [program] = (root / HOME[1:] / "python/bin").iterdir()
    started = f"env -i PATH=/usr/sbin:/usr/bin chroot {root} {HOME}/python/bin/{program.name}"
    inside = f'mount -t proc proc {root}/proc && exec {started} "$@"'
    command = ["unshare", "--mount", "sh", "-c", inside, "python", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_needs_nothing_of_the_node(root: Path) -> None:
    done = python(
        root,
        "-c",
        f"import {', '.join(NEEDED)}; print(ctypes.CDLL(None).getpid() == __import__('os').getpid())",
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_all_compiled_modules_load(root: Path) -> None:
    names = [path.name.partition(".")[0] for path in (root / HOME[1:]).rglob("lib-dynload/*.so")]
    assert len(names) > 20
    done = python(root, "-c", f"import importlib; [importlib.import_module(name) for name in {names}]")
    assert (done.returncode, done.stderr) == (0, "")


def test_environments_can_be_made_of_it(root: Path) -> None:
    made = python(root, "-m", "venv", "--without-pip", HOME)
    assert made.returncode == 0, made.stderr
    link = root / HOME[1:] / "bin/python"
    assert link.is_symlink()
    pip = python(root, f"{HOME}/python/pip.whl/pip", "--version")
    assert pip.stdout.startswith("pip "), pip.stderr
