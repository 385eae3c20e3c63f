"""Pack an interpreter for the agent, for nodes whose own Python is too old or missing.

The archive is Debian's CPython with its standard library, the C library and the other libraries that these need, and
pip. It needs nothing of the node but a kernel. The paths of a program's loader are absolute: the archive has
:data:`PLACEHOLDER` in place of the version's name, which ``packaging/node.sh`` replaces. Needs Debian's patchelf and
python3-venv: ``python packaging/build_interpreter.py``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from build_bundle import pack
from plugin_archive import ROOT, run

OUTPUT = ROOT / "dist" / "egress-gateway-python.tar.gz"
PLACEHOLDER = "@" * 12
"""Text in place of a version's name, and as long."""
HOME = f"/opt/egress-gateway/versions/{PLACEHOLDER}/python"
PIP = Path("/usr/share/python-wheels")
"""Directory of Debian's wheels, from which environments are made."""
LEFT_OUT = (
    "__pycache__", "config-*", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "sitecustomize.py",
    "test", "tkinter", "turtledemo",
)  # fmt: skip
"""Patterns of names in the standard library that no service needs. The site's own settings stay on its machine."""
EXTENSIONS_LEFT_OUT = ("_crypt", "_curses", "_dbm", "_test", "_tkinter", "nis", "ossaudiodev", "readline")
"""Beginnings of names of compiled modules whose libraries would be large and are not needed."""
NEEDED_BY_WHEELS = ("libdl.so.2", "libgcc_s.so.1", "libpthread.so.0", "librt.so.1", "libutil.so.1")
"""Libraries beside the C library that compiled modules of wheels name. Those of the node fit its own C library only."""
ASK = """
import json, os, sys, sysconfig
print(json.dumps({"program": os.path.realpath(sys.executable), "stdlib": sysconfig.get_path("stdlib"),
                  "name": "python%d.%d" % sys.version_info[:2]}))
"""


@dataclass(frozen=True)
class Python:
    """The files of an installed Python. ``name``: of its program and its library's directory, as ``python3.11``."""

    program: str
    stdlib: str
    name: str


def main() -> int:
    """Build the archive as the command line says. Return the exit status."""
    description = "Packs an interpreter for the agent."
    return run("build_interpreter", description, OUTPUT, "that is packed", build)


def build(output: Path, python: str) -> None:
    """Write the archive to ``output``.

    Raises :class:`ValueError`, :class:`OSError`, :class:`subprocess.CalledProcessError`.
    """
    found = Python(**json.loads(_output(python, "-ISc", ASK)))
    files = collect(found)
    packages = _packages(files.values())
    content = {f"python/{name}": path.read_bytes() for name, path in files.items()}
    content[f"python/bin/{found.name}"] = _moved(Path(found.program), output.with_suffix(".program"))
    content["python/PACKAGES"] = "".join(f"{name} {version}\n" for name, version in packages).encode()
    for name, _ in packages:
        content[f"python/licenses/{name}"] = Path("/usr/share/doc", name, "copyright").read_bytes()
    output.parent.mkdir(parents=True, exist_ok=True)
    programs = {f"python/bin/{found.name}", f"python/lib/{_loader(found.program).name}"}
    output.write_bytes(pack(content, programs))


def collect(python: Python) -> dict[str, Path]:
    """Return the files by their names in the archive. Raises :class:`ValueError` if pip's wheel is missing."""
    stdlib = Path(python.stdlib)
    modules = {f"lib/{python.name}/{path.relative_to(stdlib)}": path for path in _standard_library(stdlib)}
    compiled = [str(path) for path in modules.values() if path.suffix == ".so"]
    libraries = set(re.findall(r"=> (/\S+)", _output("ldd", python.program, *compiled)))
    c_library = next(Path(path) for path in libraries if "/libc.so" in path)
    libraries |= {str(c_library.with_name(name)) for name in NEEDED_BY_WHEELS}
    wheels = sorted(PIP.glob("pip-*.whl"))
    if not wheels:
        raise ValueError(f"no wheel of pip in {PIP}: Debian's python3-venv brings it")
    return {
        **modules,
        **{
            f"lib/{Path(path).name}": Path(path).resolve()
            for path in (str(_loader(python.program)), *sorted(libraries))
        },
        "pip.whl": wheels[-1],
        f"bin/{python.name}": Path(python.program),
    }


def _standard_library(root: Path) -> Iterable[Path]:
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        left_out = any(Path(part).match(pattern) for part in parts for pattern in LEFT_OUT)
        extension = path.suffix == ".so" and path.name.startswith(EXTENSIONS_LEFT_OUT)
        if path.is_file() and not left_out and not extension:
            yield path


def _loader(program: str) -> Path:
    return Path(_output("patchelf", "--print-interpreter", program).strip())


def _moved(program: Path, copy: Path) -> bytes:
    """Return the program with the loader and the libraries of the archive. ``copy``: a path for a temporary file."""
    try:
        copy.write_bytes(program.read_bytes())
        options = (
            "--set-interpreter",
            f"{HOME}/lib/{_loader(str(program)).name}",
            "--force-rpath",
            "--set-rpath",
            "$ORIGIN/../lib",
        )
        _output("patchelf", *options, str(copy))
        return copy.read_bytes()
    finally:
        copy.unlink(missing_ok=True)


def _packages(paths: Iterable[Path]) -> list[tuple[str, str]]:
    """Return names and versions of the Debian packages that the files are from."""
    # dpkg knows a file below /lib or /usr/lib, by its package's own path.
    asked = {str(each) for path in paths for each in (path, *_other_names(path))}
    lines = subprocess.run(
        ["dpkg-query", "--search", *sorted(asked)], capture_output=True, text=True, check=False
    )
    names = sorted({line.partition(":")[0] for line in lines.stdout.splitlines() if ": /" in line})
    return [
        (name, _output("dpkg-query", "--show", "--showformat=${Version}", name).strip()) for name in names
    ]


def _other_names(path: Path) -> Iterable[Path]:
    if path.is_relative_to("/usr/lib"):
        yield Path("/", path.relative_to("/usr"))


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
