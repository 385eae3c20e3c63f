"""What is installed on nodes is pinned, with hashes, and all of it."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.lab.namespace import REPOSITORY

CONSTRAINTS = REPOSITORY / "packaging" / "constraints.txt"
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def pinned() -> dict[str, Requirement]:
    """Return the pinned requirements by canonical name; each has a hash."""
    found: dict[str, Requirement] = {}
    for entry in CONSTRAINTS.read_text().replace("\\\n", " ").splitlines():
        text, *hashes = re.split(r"\s+(?=--hash)", entry.partition("#")[0].strip())
        if text:
            assert hashes, f"{text} has no hash"
            assert all(HASH.fullmatch(each) for each in hashes), text
            requirement = Requirement(text)
            assert re.fullmatch(r"==[0-9][^*]*", str(requirement.specifier)), text
            found[canonicalize_name(requirement.name)] = requirement
    return found


def version(requirement: Requirement) -> str:
    return str(requirement.specifier).removeprefix("==")


def test_each_dependency_is_pinned_within_its_range() -> None:
    found = pinned()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(version(found[canonicalize_name(wanted.name)])), text


def test_what_dependencies_need_is_pinned_too() -> None:
    """By what the environment of these tests has: it was made from the same file."""
    found = pinned()
    for name, requirement in found.items():
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        assert metadata.version(name) == version(requirement), f"{name}: run ./install.sh test again"
        for text in metadata.requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert needed.specifier.contains(version(found[canonicalize_name(needed.name)])), (
                    f"{name}: {text}"
                )


def test_the_image_takes_nothing_else() -> None:
    text = (REPOSITORY / "packaging" / "Containerfile").read_text()
    assert "--require-hashes -r /constraints.txt" in text
    assert text.count("pip install") == text.count("--no-index") == text.count("--no-deps")
    # Without a default: the digest is given, and checked.
    assert "ARG BASE\n" in text
    assert "ARG BASE=" not in text
    assert "*@sha256:*) ;;" in text
