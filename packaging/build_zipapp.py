"""Build the CNI plugin into one executable file: a zipapp of ``cni`` and pyroute2, the same to the byte.

Run it with a Python that has pyroute2: ``python packaging/build_zipapp.py``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from plugin_archive import (
    LIBRARIES,
    ROOT,
    archive,
    collect_libraries,
    collect_plugin,
    compile_sources,
    place,
    run,
)

OUTPUT = ROOT / "dist" / "egress-gateway"
BOOT = "import sys;sys.path.insert(0,sys.argv[1]);from cni.protocol import main;main()"
"""Everything behind the interpreter is one argument to it, and the file's path is the next. So no interpreter
has to find out what kind of file it was given, for which ``runpy`` takes 5 ms, nor to read ``__main__`` from it."""
SHEBANG_BYTES = 255
"""Bytes that the kernel reads of the first line (``BINPRM_BUF_SIZE``, less one)."""


def main() -> int:
    """Build the plugin as the command line says. Return the exit status."""
    description = "Builds the CNI plugin into one executable file."
    return run("build_zipapp", description, OUTPUT, "the interpreter on the nodes", build)


def build(output: Path, python: str) -> None:
    """Write the plugin to ``output``, to be run by ``python``, the path of an interpreter.

    Raises :class:`ValueError`, :class:`ImportError`, :class:`OSError`, :class:`subprocess.CalledProcessError`.
    """
    first_line = shebang(python)
    with tempfile.TemporaryDirectory() as directory:
        plugin, libraries, whole = (Path(directory, name) for name in ("plugin", "libraries", "whole"))
        collect_libraries(libraries)
        compile_sources(libraries, python)
        collect_plugin(plugin)
        compile_sources(plugin, python)
        archive(libraries, plugin / LIBRARIES)
        whole.write_bytes(first_line)
        archive(plugin, whole)
        place(whole, output)


def shebang(python: str) -> bytes:
    """Return the first line. With ``-I -S -E`` neither the user's environment nor ``site`` changes what is imported.

    Raises :class:`ValueError` for an interpreter that the kernel could not start from it.
    """
    line = f"#!{python} -ISEc{BOOT}\n".encode()
    if not python.startswith("/") or any(c.isspace() for c in python) or len(line) > SHEBANG_BYTES:
        raise ValueError(f"--python {python}: an absolute path is needed, short and without white space")
    return line


if __name__ == "__main__":
    sys.exit(main())
