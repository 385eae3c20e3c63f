"""The bundle: the same to the byte, with a list of all that is inside."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.lab.namespace import REPOSITORY

PACKAGING = REPOSITORY / "packaging"
PACKAGES = b"zlib1g 1:1.2.13.dfsg-1\n"


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_bundle", PACKAGING / "build_bundle.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def wheel(path: Path, name: str, license_line: str) -> None:
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n{license_line}\n\nText\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name.replace('-', '_')}-1.2.dist-info/METADATA", text)


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    directory = tmp_path / "wheels"
    directory.mkdir()
    wheel(directory / "egress_gateway-1.2-py3-none-any.whl", "egress-gateway", "License: Apache-2.0")
    wheel(
        directory / "other-1.2-py3-none-any.whl", "Other_Thing",
        "Classifier: License :: OSI Approved :: MIT License",
    )  # fmt: skip
    return directory


@pytest.fixture
def root(tmp_path: Path, builder: ModuleType) -> Path:
    """Return a copy of what the bundle takes from the repository, with plugins of a few bytes."""
    root = tmp_path / "root"
    for name in (*builder.PROGRAMS, *builder.FILES, *(f"{builder.UNITS}/{p.name}" for p in units())):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        source = REPOSITORY / name
        (root / name).write_bytes(b"plugin" if name.startswith("dist/") else source.read_bytes())
    with tarfile.open(root / builder.INTERPRETER, "w:gz") as archive:
        listed = tarfile.TarInfo("python/PACKAGES")
        listed.size = len(PACKAGES)
        archive.addfile(listed, io.BytesIO(PACKAGES))
    return root


def units() -> list[Path]:
    return sorted((PACKAGING / "systemd").glob("*.service"))


def test_the_same_files_are_the_same_bundle(builder: ModuleType, root: Path, wheels: Path) -> None:
    first = builder.bundle(builder.collect(root, wheels))
    for path in (*root.rglob("*"), *wheels.iterdir()):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    assert builder.bundle(builder.collect(root, wheels)) == first


def test_it_has_all_that_a_node_needs(builder: ModuleType, root: Path, wheels: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(builder.bundle(builder.collect(root, wheels)))) as archive:
        modes = {entry.name: entry.mode for entry in archive.getmembers()}
        assert {entry.uid for entry in archive.getmembers()} == {0}
    assert modes["egress-gateway/install.sh"] == modes["egress-gateway/dist/egress-gateway"] == 0o755
    assert {f"egress-gateway/packaging/systemd/{path.name}" for path in units()} <= modes.keys()
    assert modes["egress-gateway/wheels/other-1.2-py3-none-any.whl"] == 0o644


def test_the_list_names_each_part_with_its_hash(builder: ModuleType, root: Path, wheels: Path) -> None:
    files = builder.collect(root, wheels)
    listed = json.loads(files[builder.LIST])
    assert (listed["bomFormat"], listed["metadata"]["component"]["version"]) == ("CycloneDX", "1.2")
    hashes = {part["hashes"][0]["content"] for part in listed["components"]}
    others = {builder.LIST, builder.SUMS}
    assert hashes == {
        hashlib.sha256(content).hexdigest() for name, content in files.items() if name not in others
    }
    [other] = [part for part in listed["components"] if part.get("purl") == "pkg:pypi/other-thing@1.2"]
    [interpreter] = [part for part in listed["components"] if part["name"] == builder.INTERPRETER]
    assert [part["purl"] for part in interpreter["components"]] == ["pkg:deb/debian/zlib1g@1%3A1.2.13.dfsg-1"]
    assert other["licenses"] == [{"license": {"name": "MIT License"}}]


def test_without_our_own_wheel_there_is_no_bundle(builder: ModuleType, root: Path, wheels: Path) -> None:
    next(wheels.glob("egress_gateway*")).unlink()
    with pytest.raises(ValueError, match="no wheel of egress-gateway"):
        builder.collect(root, wheels)
