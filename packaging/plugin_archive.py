"""Stages and archives, for both builds of the plugin: the same to the byte, whoever builds them."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import files
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = "/usr/bin/python3"
LIBRARIES = "libraries.zip"
"""Name of the archive that ``cni/vendored.py`` looks for."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip entry can have."""


def run(
    name: str, description: str, output: Path, python_help: str, build: Callable[[Path, str], None]
) -> int:
    """Parse the command line, call ``build`` with output and interpreter, and return the exit status.

    Errors go to stderr, after the ``name`` of the program.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output", type=Path, default=output, help=f"default: {output.relative_to(ROOT)}")
    parser.add_argument("--python", default=PYTHON, help=f"{python_help} (default: {PYTHON})")
    options = parser.parse_args()
    try:
        build(options.output, options.python)
    except (OSError, ValueError, ImportError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"{name}: {error.cmd[0]} has failed:\n{error.stderr or error.stdout}", file=sys.stderr)
        return 1
    return 0


def collect_plugin(stage: Path) -> None:
    """Copy the sources of ``cni``, and its ``__main__.py`` to the root of the stage. Raises :class:`OSError`."""
    for source in sorted((ROOT / "cni").rglob("*.py")):
        copy(source, stage / source.relative_to(ROOT))
    copy(ROOT / "cni" / "__main__.py", stage / "__main__.py")


def collect_libraries(stage: Path) -> None:
    """Copy pyroute2's sources and license into the stage. Raises :class:`ImportError` if they are not installed."""
    for path in files("pyroute2") or []:
        if path.parts[0] == "pyroute2" and path.suffix == ".py":
            copy(Path(str(path.locate())), stage / path)
        elif path.name.startswith("LICENSE"):
            copy(Path(str(path.locate())), stage / "licenses" / f"pyroute2-{path.name}")
    if not (stage / "pyroute2" / "__init__.py").exists():
        raise ImportError(f"no sources of pyroute2 in {sys.executable}: install the project into it first")
    # As its authors make pyroute2-minimal: without databases, which the plugin would wait for while the agent is away.
    shutil.move(stage / "pyroute2" / "minimal.py", stage / "pyroute2" / "__init__.py")


def copy(source: Path, target: Path) -> None:
    """Copy one file; the target's directory is made. Raises :class:`OSError`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def compile_sources(stage: Path, python: str) -> None:
    """Write a ``.pyc`` beside each ``.py``, with no path of this machine and no time in it.

    Another Python than the nodes' finds a foreign magic number in them and takes the sources, only slower.
    Raises :class:`subprocess.CalledProcessError`.
    """
    options = ["-q", "-b", "-f", "-s", str(stage), "--invalidation-mode", "unchecked-hash", str(stage)]
    # The order of sets in compiled constants depends on the hash seed.
    environment = {"PYTHONHASHSEED": "0"}
    command = [python, "-sS", "-m", "compileall", *options]
    subprocess.run(command, env=environment, check=True, capture_output=True, text=True)


def archive(stage: Path, output: Path) -> None:
    """Append a zip archive of all files under ``stage``. It is not compressed: each pod start would pay for that."""
    with zipfile.ZipFile(output, "a", zipfile.ZIP_STORED) as zipped:
        for path in sorted(path for path in stage.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(stage).as_posix(), EPOCH)
            entry.external_attr = 0o100644 << 16
            zipped.writestr(entry, path.read_bytes())


def place(whole: Path, output: Path) -> None:
    """Put the executable ``whole`` at ``output`` in one step: a runtime starts the old file or the new one."""
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        shutil.copyfile(whole, temporary)
        temporary.chmod(0o755)
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
