"""Names: none is made of words that are no terms of the field, and constants that are no whole numbers have units."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BANNED = {
    "hear",
    "hears",
    "heard",
    "hearing",
    "unheard",
    "tell",
    "tells",
    "told",
    "stand",
    "stands",
    "stood",
    "standing",
}
BANNED |= {"nobody", "somebody", "wish", "heir", "gift", "tend"}
OF_TEXTS = {"word", "words"}
"""Terms of texts, as a test may compare them; in the product they were names for messages."""
ALLOWED = {"LOAD_WORD", "LOAD_WORD_AT_INDEX", "_LOAD_WORD"}
"""Instructions of classic BPF, as the kernel names them: they load a machine word."""
UNITS = ("S", "MS", "NS", "US", "BYTES", "HZ", "RATIO", "SHARE", "FACTOR", "BOUND", "SIMILARITY")
"""The last part of a constant's name: its unit, or that it has none."""
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def banned(source: str, words: Collection[str] = frozenset(BANNED | OF_TEXTS)) -> Iterator[str]:
    """Yield the identifiers of a module, also those inside f-strings, that have a banned word as a part."""
    names = {
        t.string for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.NAME
    }
    names |= {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    for name in sorted(names - ALLOWED):
        if {*words} & {part.lower() for part in PART.findall(name)}:
            yield name


def without_unit(source: str) -> Iterator[str]:
    """Yield the constants of a module that are no whole numbers and have no unit in their names."""
    for node in ast.parse(source).body:
        names: list[ast.expr] = node.targets if isinstance(node, ast.Assign) else []
        values = [node.value] if isinstance(node, ast.Assign) else []
        if names and isinstance(names[0], ast.Tuple) and isinstance(values[0], ast.Tuple):
            names, values = names[0].elts, values[0].elts
        for name, value in zip(names, values, strict=False):
            number = isinstance(value, ast.Constant) and isinstance(value.value, float)
            if number and isinstance(name, ast.Name) and name.id.rpartition("_")[2] not in UNITS:
                yield name.id


def modules(*folders: str) -> dict[str, str]:
    """Return the source of each module of these folders, by its path."""
    files = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    assert files
    return {str(path.relative_to(REPOSITORY)): path.read_text() for path in files}


def test_no_identifier_is_made_of_banned_terms() -> None:
    found = {path: [*banned(source)] for path, source in modules("cni", "gateway_agent").items()}
    found |= {path: [*banned(source, BANNED)] for path, source in modules("tests").items()}
    assert {path: names for path, names in found.items() if names} == {}


def test_a_constant_that_is_no_whole_number_has_its_unit() -> None:
    sources = modules("cni", "gateway_agent", "tests")
    found = {path: [*without_unit(source)] for path, source in sources.items()}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("INTERVAL = 1.0", ["INTERVAL"]),
        ("INTERVAL_S = 1.0", []),
        ("A_S, LATE = 0.1, 0.2", ["LATE"]),
        ("PORT = 9100", []),
        ("def f():\n    interval = 1.0", []),
    ],
)
def test_constants_without_a_unit_are_found(source: str, found: list[str]) -> None:
    assert [*without_unit(source)] == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("_last_heard_at = 0", ["_last_heard_at"]),
        ("class KeysHeard: ...", ["KeysHeard"]),
        ("def f(told): ...", ["told"]),
        ('text = f"{words}"', ["words"]),
        ("LOAD_WORD = outstanding = keywords = 1", []),
        ("'a string that was heard'  # a comment that nobody reads", []),
    ],
)
def test_banned_identifiers_are_found(source: str, found: list[str]) -> None:
    assert [*banned(source)] == found
