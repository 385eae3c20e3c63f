"""Pack everything that a node needs into one file, the same to the byte, with a list of what is inside.

``python packaging/build_bundle.py --wheels DIR``: after the builds of both plugins, with the wheels in ``DIR``.
The list is CycloneDX (https://cyclonedx.org/docs/1.5/json/): name, version, license and SHA-256 of each part.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Collection, Iterator
from email.parser import HeaderParser
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "dist" / "egress-gateway-bundle.tar.gz"
NAME = "egress-gateway"
LIST = "sbom.cdx.json"
SUMS = "SHA256SUMS"
INTERPRETER = "dist/egress-gateway-python.tar.gz"
PROGRAMS = ("install.sh", "dist/egress-gateway", "dist/egress-gateway-standalone")
FILES = (
    "LICENSE",
    INTERPRETER,
    "packaging/node.sh",
    "README.md",
    *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")),
    "packaging/constraints.txt",
    "pyproject.toml",
)
UNITS = "packaging/systemd"


def main() -> int:
    """Build the bundle as the command line says. Return the exit status."""
    parser = argparse.ArgumentParser(description="Packs everything that a node needs into one file.")
    parser.add_argument("--wheels", type=Path, required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE")
    options = parser.parse_args()
    try:
        content = bundle(collect(ROOT, options.wheels))
    except (OSError, ValueError) as error:
        print(f"build_bundle: {error}", file=sys.stderr)
        return 1
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_bytes(content)
    return 0


def collect(root: Path, wheels: Path) -> dict[str, bytes]:
    """Return the content of the bundle by path. Raises OSError, and ValueError without a wheel of this project."""
    paths = {name: root / name for name in (*PROGRAMS, *FILES)}
    paths.update({f"{UNITS}/{path.name}": path for path in (root / UNITS).glob("*.service")})
    paths.update({f"wheels/{path.name}": path for path in wheels.glob("*.whl")})
    if not any(path.startswith("wheels/egress_gateway-") for path in paths):
        raise ValueError(f"no wheel of {NAME} in {wheels}")
    files = {name: path.read_bytes() for name, path in sorted(paths.items())}
    files[LIST] = parts(files)
    files[SUMS] = "".join(f"{_sha256(files[name])}  {name}\n" for name in sorted(files)).encode()
    return files


def parts(files: dict[str, bytes]) -> bytes:
    """Return the list of what is inside, as CycloneDX in JSON."""
    own = next(name for name in files if name.startswith("wheels/egress_gateway-"))
    version = own.split("-")[1]
    components = [
        _library(files[name]) if name.endswith(".whl") else _file(name, files[name]) for name in files
    ]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": NAME, "version": version, "bom-ref": NAME}},
        "components": components,
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _library(wheel: bytes) -> dict[str, object]:
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        fields = HeaderParser().parsestr(archive.read(metadata).decode())
    name, version = fields["Name"], fields["Version"]
    component: dict[str, object] = {
        "type": "library",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{version}",
        "hashes": [{"alg": "SHA-256", "content": _sha256(wheel)}],
    }
    words = fields["License-Expression"] or fields["License"]
    classifiers = [text for text in fields.get_all("Classifier", []) if text.startswith("License ::")]
    if words or classifiers:
        # Some packages have the whole text of their license in that field.
        name_of_license = (words or classifiers[0].rpartition(":: ")[2]).strip().partition("\n")[0]
        component["licenses"] = [{"license": {"name": name_of_license}}]
    return component


def _file(name: str, content: bytes) -> dict[str, object]:
    component: dict[str, object] = {
        "type": "file",
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": _sha256(content)}],
    }
    if name == INTERPRETER:
        component["components"] = list(_debian_packages(content))
    return component


def _debian_packages(interpreter: bytes) -> Iterator[dict[str, object]]:
    """Yield the packages that the interpreter's files are from; their licenses are beside these files."""
    with tarfile.open(fileobj=io.BytesIO(interpreter)) as archive:
        listed = archive.extractfile("python/PACKAGES")
        assert listed is not None
        for line in listed.read().decode().splitlines():
            name, version = line.split()
            purl = f"pkg:deb/debian/{name}@{quote(version)}"
            yield {"type": "library", "name": name, "version": version, "purl": purl}


def bundle(files: dict[str, bytes]) -> bytes:
    """Return the files as a compressed archive, in a directory of its own."""
    return pack(
        {f"{NAME}/{name}": content for name, content in files.items()},
        {f"{NAME}/{name}" for name in PROGRAMS},
    )


def pack(files: dict[str, bytes], programs: Collection[str]) -> bytes:
    """Return the files as a compressed archive, without times and owners. ``programs``: names of executable files."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(files[name]), 0o755 if name in programs else 0o644
            archive.addfile(entry, io.BytesIO(files[name]))
    return packed.getvalue()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
