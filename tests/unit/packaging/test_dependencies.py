"""The product declares each package that it imports, and no other."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
OWN = {"cni", "gateway_agent"}


def imported() -> set[str]:
    """Return the top names of all imports that are neither ours nor in the standard library."""
    names = set()
    for path in (file for top in OWN for file in (REPOSITORY / top).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module)
    return {name.partition(".")[0] for name in names} - OWN - sys.stdlib_module_names


def declared() -> set[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {re.split(r"[<>=~!\[ ]", text)[0].lower() for text in project["dependencies"]}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    # Several distributions may have modules in one package.
    owners = {name: {_normal(each) for each in packages_distributions()[name]} for name in imported()}
    assert [name for name, found in owners.items() if not found & declared()] == []
    assert declared() - set().union(*owners.values()) == set()


def _normal(distribution: str) -> str:
    return distribution.lower().replace("_", "-")
