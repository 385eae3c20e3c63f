"""Measure the code of a checkout: sizes, docstrings, comments, contracts, tests; print tables for a document.

``python -m tests.tools.house [--beside PATH] [--coverage [TESTS ...]]``. ``--beside``: another checkout, whose measures
come first. ``--coverage``: run these tests, by default all unit tests, which need no root, and add the covered lines of
each module.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import statistics
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .tested_elsewhere import TESTED_ELSEWHERE

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PRODUCT = ("cni", "gateway_agent")
DOCSTRING_RULES = ("--isolated", "--select", "D", "--ignore", "D203,D213,D105,D107")
LONG_FILE, LONG_FUNCTION = 300, 40
"""Limits of the house rules, lines."""
MAX_MODULES = 13
"""Largest number of modules in a package, without ``__init__``."""
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Module:
    """The measures of one file."""

    path: Path
    """Path relative to the checkout."""
    lines: int
    comments: int
    functions: tuple[int, ...]
    """Lines of each function, methods included."""
    documented: dict[str, tuple[int, int]]
    """(with docstring, all) of the public functions, of the public classes, and of the module itself."""


def measure(path: Path, text: str) -> Module:
    """Return the measures of one file with this content."""
    tree = ast.parse(text)
    public = list(_public(tree))
    functions = [d for d in ast.walk(tree) if isinstance(d, ast.FunctionDef | ast.AsyncFunctionDef)]
    tokens = tokenize.generate_tokens(iter(text.splitlines(keepends=True)).__next__)
    return Module(
        path,
        len(text.splitlines()),
        sum(token.type == tokenize.COMMENT for token in tokens),
        tuple((f.end_lineno or f.lineno) - f.lineno + 1 for f in functions),
        {
            "functions": _share([d for d in public if not isinstance(d, ast.ClassDef)]),
            "classes": _share([d for d in public if isinstance(d, ast.ClassDef)]),
            "modules": (int(ast.get_docstring(tree) is not None), 1),
        },
    )


def _public(scope: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    """Yield the public definitions of a module, methods included."""
    for definition in scope.body:
        if isinstance(definition, Definition) and not definition.name.startswith("_"):
            yield definition
            if isinstance(definition, ast.ClassDef):
                yield from _public(definition)


def _share(definitions: Sequence[Definition]) -> tuple[int, int]:
    return sum(ast.get_docstring(d) is not None for d in definitions), len(definitions)


def modules(root: Path) -> list[Module]:
    """Return the measures of each file of the product in a checkout."""
    files = sorted(path for package in PRODUCT for path in (root / package).rglob("*.py"))
    return [measure(path.relative_to(root), path.read_text(encoding="utf-8")) for path in files]


def too_large(root: Path) -> list[str]:
    """Return the files, functions and packages that are larger than the house rules allow."""
    found = modules(root)
    sizes = Counter(str(m.path.parent) for m in found if m.path.name != "__init__.py")
    return [
        *(f"{m.path}: {m.lines} lines" for m in found if m.lines > LONG_FILE),
        *(f"{m.path}: a function of {n} lines" for m in found for n in m.functions if n > LONG_FUNCTION),
        *(f"{package}: {size} modules" for package, size in sizes.items() if size > MAX_MODULES),
    ]


def unmirrored(root: Path) -> list[Path]:
    """Return the modules with code but without a test file of their name at the same place in ``tests/unit``."""
    found = (module.path for module in modules(root) if module.functions)
    return [path for path in found if not path.name.startswith("__") and not (root / mirror(path)).exists()]


def mirror(module: Path) -> Path:
    """Return the path of the unit tests of a module. The tests of the service have no folder for its package."""
    package = module.parent.parts[1:] if module.parts[0] == PRODUCT[1] else module.parent.parts
    return Path("tests", "unit", *package, f"test_{module.name}")


def table(root: Path) -> dict[str, str]:
    """Return the measures of a checkout, by their names."""
    found = modules(root)
    files, functions = [m.lines for m in found], [lines for m in found for lines in m.functions]
    code = [m for m in found if m.path.name != "__init__.py"]
    largest = ", ".join(f"`{p}` {n}" for p, n in Counter(str(m.path.parent) for m in code).most_common(3))
    total = {kind: [sum(column) for column in zip(*(m.documented[kind] for m in found), strict=True)]
             for kind in ("functions", "classes", "modules")}  # fmt: skip
    tests = [path.read_text(encoding="utf-8") for path in (root / "tests").rglob("*.py")]
    return {
        "lines / files": f"{sum(files)} / {len(files)}",
        "lines of a file: median / p90 / max": _spread(files, 90),
        f"files of more than {LONG_FILE} lines": str(sum(lines > LONG_FILE for lines in files)),
        "lines of a function: median / p95 / max": _spread(functions, 95),
        f"functions of more than {LONG_FUNCTION} lines": str(sum(f > LONG_FUNCTION for f in functions)),
        "packages with most modules": largest,
        "docstring: public functions / classes / modules": " / ".join(
            f"{100 * have // max(1, of)} %" for have, of in total.values()
        ),
        "findings of ruff's docstring rules": str(len(_docstring_findings(root))),
        "comments per 100 lines": f"{100 * sum(m.comments for m in found) / sum(files):.1f}",
        "import contracts kept / all": _contracts(root),
        "modules without a unit test file of their name at their place": str(len(unmirrored(root))),
        "`mock` in tests": str(
            sum(len(re.findall(r"^\s*(?:from|import) .*\bmock\b", text, re.MULTILINE)) for text in tests)
        ),
    }


def _spread(values: Sequence[int], percent: int) -> str:
    high = statistics.quantiles(values, n=100)[percent - 1]
    return f"{statistics.median(values):.0f} / {high:.0f} / {max(values)}"


def _docstring_findings(root: Path) -> list[object]:
    command = [str(BIN / "ruff"), "check", *DOCSTRING_RULES, "--output-format", "json", *PRODUCT]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    found: list[object] = json.loads(done.stdout)
    return found


def _contracts(root: Path) -> str:
    command = [str(BIN / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    counts = re.search(r"(\d+) kept, (\d+) broken", done.stdout)
    return f"{counts[1]} / {int(counts[1]) + int(counts[2])}" if counts else "not known"


def coverage(root: Path, selected: Sequence[str]) -> dict[str, float]:
    """Return the percentage of lines of each module that the selected tests of this checkout run."""
    with tempfile.TemporaryDirectory() as directory:
        data, report = f"--data-file={directory}/data", Path(directory) / "report.json"
        run = [sys.executable, "-m", "coverage"]
        tests = [
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            *(selected or ["tests/unit"]),
            "--deselect",
            "tests/unit/test_quality.py",
        ]
        subprocess.run([*run, "run", data, f"--source={','.join(PRODUCT)}", *tests], cwd=root, check=False)
        subprocess.run([*run, "json", data, "-q", "-o", str(report)], cwd=root, check=True)
        files = json.loads(report.read_text(encoding="utf-8"))["files"]
    return {name: file["summary"]["percent_covered"] for name, file in files.items()}


def _print(heading: str, roots: Sequence[Path], measured: Callable[[Path], dict[str, str]]) -> None:
    columns = [measured(root) for root in roots]
    print(f"| {heading} | " + " | ".join(["before", "now"][-len(roots) :]) + " |")
    print("|---" * (1 + len(roots)) + "|")
    for name in dict.fromkeys(name for column in columns for name in column):
        print(f"| {name} | " + " | ".join(column.get(name, "") for column in columns) + " |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--beside", type=Path, metavar="PATH", help="checkout whose measures come first")
    parser.add_argument(
        "--coverage",
        nargs="*",
        metavar="TESTS",
        help="run unit tests and measure covered lines; default: all",
    )
    options = parser.parse_args()
    roots = [*([options.beside.resolve()] if options.beside else []), REPOSITORY]
    _print("measure", roots, table)
    print(
        "\n| module without a unit test file of its name at its place | the test that reaches it |\n|---|---|"
    )
    for path in unmirrored(REPOSITORY):
        print(f"| `{path}` | `{TESTED_ELSEWHERE.get(str(path), 'none')}` |")
    if options.coverage is not None:
        print()
        shares = coverage(REPOSITORY, options.coverage)
        _print(
            "module",
            [REPOSITORY],
            lambda _: {f"`{name}`": f"{shares[name]:.0f} %" for name in sorted(shares)},
        )


if __name__ == "__main__":
    main()
