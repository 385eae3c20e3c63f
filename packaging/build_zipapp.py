"""Builds the CNI plugin into one executable file: a zipapp of ``cni`` and pyroute2, the same to the byte.

Run it with a Python that has pyroute2: ``python packaging/build_zipapp.py``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import files
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "dist" / "egress-gateway"
PYTHON = "/usr/bin/python3"
LIBRARIES = "libraries.zip"
"""Where ``cni/vendored.py`` looks for it."""
BOOT = (
    "import sys;from zipimport import zipimporter as z;p=sys.argv[1];sys.path.insert(0,p);"
    'exec(z(p).get_code("__main__"))'
)
"""Everything behind the interpreter is one argument to it, and the file's path is the next. So no interpreter
has to find out what kind of file it was given, for which ``runpy`` takes 5 ms."""
SHEBANG_BYTES = 255
"""What the kernel reads of the first line (``BINPRM_BUF_SIZE``, less one)."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip entry can have."""


def main(arguments: list[str] | None = None) -> int:
    """Exit status; what is wrong goes to stderr."""
    parser = argparse.ArgumentParser(description="Builds the CNI plugin into one executable file.")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: dist/egress-gateway")
    parser.add_argument("--python", default=PYTHON, help=f"the interpreter on the nodes (default: {PYTHON})")
    options = parser.parse_args(arguments)
    try:
        build(options.output, options.python)
    except (OSError, ValueError, ImportError) as error:
        print(f"build_zipapp: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        reason = error.stderr or error.stdout
        print(f"build_zipapp: {options.python} cannot compile it: {reason}", file=sys.stderr)
        return 1
    return 0


def build(output: Path, python: str) -> None:
    """Writes the plugin to ``output``, to be run by ``python``, the path of an interpreter.

    Raises :class:`ValueError`, :class:`ImportError`, :class:`OSError`, :class:`subprocess.CalledProcessError`.
    """
    first_line = shebang(python)
    with tempfile.TemporaryDirectory() as directory:
        plugin, libraries = Path(directory, "plugin"), Path(directory, "libraries")
        collect_libraries(libraries)
        compile_sources(libraries, python)
        collect_plugin(plugin)
        compile_sources(plugin, python)
        archive(libraries, plugin / LIBRARIES)
        whole = Path(directory, "whole")
        whole.write_bytes(first_line)
        archive(plugin, whole)
        place(whole, output)


def shebang(python: str) -> bytes:
    """The first line. ``-I -S -E``: neither the user's environment nor ``site`` has a say."""
    line = f"#!{python} -ISEc{BOOT}\n".encode()
    if not python.startswith("/") or any(c.isspace() for c in python) or len(line) > SHEBANG_BYTES:
        raise ValueError(f"--python {python}: an absolute path is needed, short and without white space")
    return line


def collect_plugin(stage: Path) -> None:
    for source in sorted((ROOT / "cni").rglob("*.py")):
        copy(source, stage / source.relative_to(ROOT))
    copy(ROOT / "cni" / "__main__.py", stage / "__main__.py")


def collect_libraries(stage: Path) -> None:
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
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def compile_sources(stage: Path, python: str) -> None:
    """A ``.pyc`` beside each ``.py``, with no path of this machine and no time in it.

    Another Python than the nodes' finds a foreign magic number in them and takes the sources, only slower.
    """
    options = ["-q", "-b", "-f", "-s", str(stage), "--invalidation-mode", "unchecked-hash", str(stage)]
    # The order of sets in compiled constants hangs on the hash seed.
    environment = {"PYTHONHASHSEED": "0"}
    command = [python, "-sS", "-m", "compileall", *options]
    subprocess.run(command, env=environment, check=True, capture_output=True, text=True)


def archive(stage: Path, output: Path) -> None:
    """Appends a zip archive of all files under ``stage``. Not compressed: each pod start would pay for it."""
    with zipfile.ZipFile(output, "a", zipfile.ZIP_STORED) as zipped:
        for path in sorted(path for path in stage.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(stage).as_posix(), EPOCH)
            entry.external_attr = 0o100644 << 16
            zipped.writestr(entry, path.read_bytes())


def place(whole: Path, output: Path) -> None:
    """Copied beside and renamed: a runtime that starts the plugin now gets the old file or the new one."""
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        shutil.copyfile(whole, temporary)
        temporary.chmod(0o755)
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
