"""The modules that a file imports, read from its text, and those that they import in turn."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

TOPS = ("cni", "gateway_agent", "tests")


def module_name(path: Path) -> str:
    """Return the name of the module of a file, whose path is relative to the checkout."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@lru_cache(maxsize=1 << 12)
def imported(root: Path, path: Path) -> frozenset[str]:
    """Return the modules of this checkout that the file at ``path`` (relative to it) imports itself."""
    tree = ast.parse((root / path).read_text(encoding="utf-8"))
    return frozenset(
        name for node in ast.walk(tree) for name in _named(root, path, node) if _file(root, name)
    )


def _named(root: Path, path: Path, node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = list(path.parent.parts)
        base = package[: len(package) - node.level + 1] if node.level else []
        name = ".".join([*base, *([node.module] if node.module else [])])
        yield name
        yield from (f"{name}.{alias.name}" for alias in node.names)


@lru_cache(maxsize=1 << 14)
def _file(root: Path, name: str) -> Path | None:
    if name.partition(".")[0] not in TOPS:
        return None
    path = Path(*name.split("."))
    found = (each for each in (path.with_suffix(".py"), path / "__init__.py") if (root / each).is_file())
    return next(found, None)


def reached(root: Path, path: Path, hops: int) -> frozenset[str]:
    """Return the product's modules that a test reaches: by its own imports and those of the tests that it imports.

    ``hops``: how many of the product's own imports are followed from there.
    """
    tests, product, queue = {path}, set[str](), [path]
    while queue:
        for name in imported(root, queue.pop()):
            file = _file(root, name)
            if file is None or file in tests:
                continue
            if file.parts[0] == "tests":
                tests.add(file)
                queue.append(file)
            else:
                product.add(name)
    edge = product
    for _ in range(hops):
        files = [file for name in edge if (file := _file(root, name))]
        edge = {name for file in files for name in imported(root, file)} - product
        if not edge:
            break
        product |= edge
    return frozenset(product)
