"""Build the CNI plugin and an interpreter into one static program, which needs nothing of the node.

The program is CPython, linked of Debian's ``libpython`` and glibc; the plugin, pyroute2 and what they import of the
standard library are a zip archive at its end. Needs Debian's gcc and libpython3-dev, and a Python that has pyroute2:
``python packaging/build_standalone.py``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from modulefinder import ModuleFinder
from pathlib import Path

from plugin_archive import (
    LIBRARIES,
    ROOT,
    archive,
    collect_libraries,
    collect_plugin,
    compile_sources,
    copy,
    place,
    run,
)

OUTPUT = ROOT / "dist" / "egress-gateway-standalone"
HERE = ROOT / "packaging" / "standalone"
MODULES = HERE / "modules"
"""Directory of replacements for modules that a static program cannot have."""
ENCODINGS = tuple(f"encodings/{name}.py" for name in ("__init__", "aliases", "ascii", "latin_1", "utf_8"))
"""Modules of the standard library that are imported before the first line of ours, and are not part of libpython."""
EXCLUDED = (
    "distutils", "doctest", "email", "http", "lib2to3", "pdb", "pydoc", "sqlite3", "test",
    "tkinter", "urllib.request", "webbrowser", "xml", "xmlrpc",
)  # fmt: skip
"""Modules that the standard library imports inside of functions that we do not call, or can do without."""
LOADED_BY_NAME = "pyroute2/netlink/rtnl"
"""Package whose modules pyroute2 imports by name, as it finds them."""
ASK = """
import json, sys, sysconfig as s
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2], "include": s.get_config_var("INCLUDEPY"),
    "libraries": s.get_config_var("LIBPL"), "library": s.get_config_var("LIBRARY"), "stdlib": s.get_path("stdlib"),
}))
"""


@dataclass(frozen=True)
class Python:
    """The files of a Python that a program which embeds it is linked of."""

    version: str
    include: str
    libraries: str
    library: str
    stdlib: str

    @property
    def sources(self) -> Path:
        """Return the modules in C that Debian's ``libpython`` does not have."""
        return HERE / f"cpython{self.version}"


def main() -> int:
    """Build the program as the command line says. Return the exit status."""
    description = "Builds the CNI plugin and an interpreter into one static program."
    return run("build_standalone", description, OUTPUT, "whose libpython is linked", build)


def build(output: Path, python: str) -> None:
    """Write the program to ``output``.

    Raises :class:`ValueError`, :class:`ImportError`, :class:`OSError`, :class:`subprocess.CalledProcessError`.
    """
    found = ask(python)
    with tempfile.TemporaryDirectory() as directory:
        plugin, libraries, whole = (Path(directory, name) for name in ("plugin", "libraries", "whole"))
        collect_plugin(plugin)
        collect_libraries(libraries)
        _collect_imported(plugin, libraries, Path(found.stdlib))
        copy(found.sources / "LICENSE", libraries / "licenses" / "CPython-LICENSE")
        for name in ENCODINGS:
            copy(Path(found.stdlib, name), plugin / name)
        for stage in (libraries, plugin):
            compile_sources(stage, python)
            # It is of one version for ever, so no source is looked for.
            for source in stage.rglob("*.py"):
                source.unlink()
        archive(libraries, plugin / LIBRARIES)
        link(found, whole)
        archive(plugin, whole)
        place(whole, output)


def ask(python: str) -> Python:
    """Return what ``python`` says about itself. Raises :class:`ValueError` where it cannot be linked."""
    command = [python, "-ISc", ASK]
    found = Python(**json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    if not found.sources.is_dir():
        raise ValueError(f"CPython {found.version} of {python}: {HERE / 'README.md'} says what it needs")
    for path, package in (
        (Path(found.include, "Python.h"), "libpython3-dev"),
        (Path(found.libraries, found.library), "libpython3-dev"),
    ):
        if not path.exists():
            raise ValueError(f"{path} is missing: Debian's {package} has it")
    return found


def link(python: Python, output: Path) -> None:
    """Link the interpreter. Raises :class:`subprocess.CalledProcessError` and :class:`OSError`."""
    sources = [HERE / "launcher.c", *sorted(python.sources.glob("*.c"))]
    # libpython calls glibc's functions for users and hosts, which would open libraries. Nothing of ours comes there.
    command = [
        "gcc", "-static", "-s", "-O2", "-DNDEBUG", "-DPy_BUILD_CORE_BUILTIN", f"-I{python.include}",
        f"-I{python.include}/internal", *map(str, sources), "-o", str(output), f"-L{python.libraries}",
        f"-l:{python.library}", "-lm", "-lz",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, text=True)


def _collect_imported(plugin: Path, libraries: Path, stdlib: Path) -> None:
    """Add to ``libraries`` what is imported of the standard library; leave of pyroute2 what is imported."""
    finder = ModuleFinder(
        [str(path) for path in (plugin, libraries, MODULES, stdlib)], excludes=list(EXCLUDED)
    )
    for stage, below in ((plugin, "cni"), (libraries, "pyroute2/__init__.py"), (libraries, LOADED_BY_NAME)):
        for path in sorted((stage / below).rglob("*.py")) or [stage / below]:
            finder.import_hook(_module(path.relative_to(stage)))
    files = {Path(module.__file__) for module in finder.modules.values() if module.__file__}
    for path in sorted((libraries / "pyroute2").rglob("*.py")):
        if path not in files:
            path.unlink()
    for origin in (MODULES, stdlib):
        for path in sorted(files):
            if path.is_relative_to(origin):
                copy(path, libraries / path.relative_to(origin))


def _module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


if __name__ == "__main__":
    sys.exit(main())
